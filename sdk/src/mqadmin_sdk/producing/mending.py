"""Topics whose new transport could not be built: tried again until it can, by one thread, which is there only while there are some."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqadmin_sdk.producing.topics import Topic

log = logging.getLogger(__name__)
_PAUSE, _PAUSE_MOST = 1.0, 30.0  # seconds


class Mender:
    """Thread-safe."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child."""
        self._lock = threading.Lock()
        self._broken: set[Topic] = set()
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def add(self, topic: Topic) -> None:
        """Mend a topic some time later."""
        with self._lock:
            self._broken.add(topic)
            if self._thread is None and not self._end.is_set():
                self._thread = threading.Thread(target=self._run, name="mqadmin-mend", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Give up."""
        self._end.set()

    def _run(self) -> None:
        pause = _PAUSE
        while not self._end.wait(pause):
            for topic in list(self._broken):
                if self._end.is_set():
                    return
                if topic.mend():
                    with self._lock:
                        self._broken.discard(topic)
                    pause = _PAUSE
            with self._lock:
                if not self._broken:
                    self._thread = None
                    return
            pause = min(_PAUSE_MOST, pause * 2)
