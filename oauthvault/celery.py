"""The Celery application: `celery -A oauthvault.celery worker`, or `oauthvault worker`."""

import logging
import os

from celery import Celery
from celery.signals import beat_init
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")

logger = logging.getLogger(__name__)

app = Celery("oauthvault")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# For every thread: a request's thread that publishes a task must find this broker.
app.set_default()


@beat_init.connect
def sweep_at_once(**kwargs: object) -> None:
    """What fell due while the scheduler was away does not wait for its first interval."""
    logger.info("starting; a sweep every %g s", settings.SWEEP_INTERVAL)
    try:
        app.send_task("tokens.sweep", expires=60, retry=False)
    except app.connection().connection_errors as error:
        logger.warning("the broker does not answer (%s); the next sweep tries again", error)
