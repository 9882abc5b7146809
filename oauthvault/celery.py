"""The Celery application: `celery -A oauthvault.celery worker`, or `oauthvault worker`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")

app = Celery("oauthvault")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
