"""The page in the browser: explain a photo, paint on its attention map, and see the prediction change.

What is below the page (photos, sessions, paintings, curves, files) needs no gradio; ``page`` and ``server`` do.
"""
