"""pydicom without its checks of values: what is stored is given on, and is no news to anybody."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config


@contextmanager
def unchecked() -> Iterator[None]:
    """Keep pydicom from checking values and from printing them; of the whole process."""
    logger, settings = logging.getLogger("pydicom"), config.settings
    disabled = logger.disabled
    reading, writing = settings.reading_validation_mode, settings.writing_validation_mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        settings.reading_validation_mode = config.IGNORE
        settings.writing_validation_mode = config.IGNORE
        try:
            yield
        finally:
            logger.disabled = disabled
            settings.reading_validation_mode = reading
            settings.writing_validation_mode = writing
