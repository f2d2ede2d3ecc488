"""What explanations and training both read: images, where they lie, their classes, masks, and data sets."""
