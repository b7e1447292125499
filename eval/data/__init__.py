"""Captioned images, read from the files that people have: `read_split` is the only reader of data sets.

| layout | files | splits |
|---|---|---|
| COCO | `annotations/captions_<split>.json`, images in `<split>/` or `images/` | one file each |
| Karpathy | `dataset_*.json`, images anywhere below | `train` (with restval), `val`, `test`, `restval`, `all` |
| Kaggle Flickr | `captions.txt` or `results.csv`, images anywhere below | as for tables |
| table | a CSV, TSV or JSON lines file of file names and captions | by column, lists, directories or file names |
| Hugging Face | `<split>/metadata.jsonl` or `.csv` beside the images | one directory each |
"""

from eval.data.captioned_image import CaptionedImage
from eval.data.reader import load_training_split, read_split

__all__ = ["CaptionedImage", "load_training_split", "read_split"]
