"""The Celery application: `celery -A oauthvault.celery worker`, or `oauthvault worker`."""

import logging
import os
from typing import Any

from celery import Celery, bootsteps
from celery import Task as BaseTask
from celery.signals import beat_init
from django.conf import settings

from tokens import isolation

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")

logger = logging.getLogger(__name__)


class Task(BaseTask):  # type: ignore[type-arg]  # takes none at run time
    """A task begins at work for nobody, and says for whom it is: in a worker, and where it is
    called like a function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with isolation.nobody():
            return super().__call__(*args, **kwargs)


app = Celery("oauthvault", task_cls=Task)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


class SignsOfLife(bootsteps.StartStopStep):
    """A worker says that it is alive for as long as it takes messages: without its broker it
    says nothing, and counts as away."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._name = ""
        self._entry: Any = None

    def start(self, consumer: Any) -> None:
        # Not before: the models are there once Django is.
        from tokens import workers

        self._name = self._name or workers.name_of_this_one()
        workers.beat_quietly(self._name)
        self._entry = consumer.timer.call_repeatedly(
            workers.EVERY, workers.beat_quietly, (self._name,)
        )

    def stop(self, consumer: Any) -> None:
        """The broker was lost, perhaps for a moment, or the worker ends."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def shutdown(self, consumer: Any) -> None:
        from tokens import workers

        self.stop(consumer)
        workers.leave_quietly(self._name)


app.steps["consumer"].add(SignsOfLife)
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
