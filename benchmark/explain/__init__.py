"""What a finished run looks at and does with new images.

explain: pictures. record_gain: what the record gives. last_layer: what the head reads. predict:
probabilities.
"""
