"""From pictures and captions to batches: download, COCO's layout, views, cached grids."""
