"""`bench report`: pages that need no network.

write: all of them. overview: the index. board_page: one target. gallery: pictures.
"""
