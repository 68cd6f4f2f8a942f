"""The videos of a collection that could not be read while a training drew them."""

import json
from collections.abc import Callable

from vvae import processes
from vvae.data.dataset import Dataset
from vvae.files import write_json
from vvae.run import Run

FILE = "broken_videos.json"
_MAX_NAMED = 20


class BrokenVideos:
    """Names broken videos when they are met, and keeps their list over all starts of a run."""

    def __init__(self, run: Run, dataset: Dataset):
        """Reads what earlier starts have met.

        Args:
          run: the run; broken_videos.json in it has the reasons by name.
          dataset: the data; only a collection that is decoded as needed has such videos.
        """
        self._path, self._collection = run.workdir / FILE, dataset.collection
        self._known: dict[str, str] = {}
        if self._collection is not None and self._path.exists():
            self._known = json.loads(self._path.read_text(encoding="utf-8"))

    def record(self, say: Callable[[str], None]) -> None:
        """Names the videos that any process has met since, and writes the list.

        All processes call it; the first one writes and speaks.
        """
        if self._collection is None:
            return
        met: dict[str, str] = {}
        for text in processes.gather_texts(json.dumps(dict(self._collection.broken))):
            met |= json.loads(text)
        new = {name: why for name, why in sorted(met.items()) if name not in self._known}
        if not new:
            return
        self._known |= new
        if processes.is_first():
            for name, why in list(new.items())[:_MAX_NAMED]:
                say(f"replaced, cannot be read: {name}: {why}")
            if len(new) > _MAX_NAMED:
                say(f"replaced, cannot be read: {len(new) - _MAX_NAMED} more, see {self._path}")
            write_json(self._path, dict(sorted(self._known.items())))

    def summarize(self) -> None:
        """Prints how many videos have been replaced, if any."""
        if self._known:
            print(
                f"data: {len(self._known)} of {len(self._collection):,} training videos could not "
                f"be read and were replaced by the next ones: {self._path}"
            )
