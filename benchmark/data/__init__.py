"""Images made ready once: fetched, decoded, checked and cut into parts.

prepare: arrays that are mapped. split: patients stay whole. leaks: what tells the label. download:
pinned, resumed. contents: hashes of files. matching: rows to images. dicom, slices: medical
formats. sheet: what observers of the expert distance see.
"""
