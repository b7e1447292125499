"""The same model in one process, with no server: what a server's captions a second are held against."""

import itertools
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from deploy.archive import SETTINGS
from handler.captioner import Captioner
from handler.parallel import available_cpus
from handler.serving.options import parse_options


class InProcess:
    """An archive's bundle as `Captioner` has it, with the archive's own back end, precision, threads and batch.

    Args:
        archive: its file.
        folder: for what is in it.
        options: of the endpoint.

    Raises:
        BundleError: the archive's bundle is damaged.
        RequestError: there is no such option, or not with such a value.
    """

    def __init__(self, archive: Path, folder: Path, options: dict[str, Any]):
        with zipfile.ZipFile(archive) as content:
            settings = yaml.safe_load(content.read(SETTINGS))
            content.extractall(folder, [name for name in content.namelist() if name.startswith("model/")])
        how = settings["handler"]
        self.batch = settings["batchSize"]
        self.threads = how["threads"] or available_cpus()
        torch.set_num_threads(self.threads)
        self.captioner = Captioner.load(folder / "model", backend=how["backend"], precision=how["precision"])
        self.options = parse_options(options, self.captioner.config.decoding)

    def throughput(self, pictures: Sequence[bytes], seconds: float) -> float:
        """Captions a second, picture after picture in batches, for so many seconds and until the last batch is done."""
        torch.set_num_threads(self.threads)
        stream, captions, began = itertools.cycle(pictures), 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds:
            batch = list(itertools.islice(stream, self.batch))
            captions += len(self.captioner.caption(batch, self.options, batch_size=self.batch))
        return captions / taken
