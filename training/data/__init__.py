"""Data: COCO download and layout, augmentation, feature cache, batches."""
