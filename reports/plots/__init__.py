"""Every drawing.

charts: geometry of the pages' charts. curves, figures, scatter, pictures: what is drawn.
"""
