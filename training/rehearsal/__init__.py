"""Rehearsal of the work on COCO at its full size, with generated captions and links to a few thousand images."""
