"""The WSGI application, as `oauthvault web` serves it."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")

application = get_wsgi_application()

# After the application is there: what an earlier process could not save is looked after, and
# nothing of a restored database is handed out.
from tokens import clock, epoch  # noqa: E402
from tokens.refresh.replay import pick_up  # noqa: E402

epoch.serve()
pick_up()
epoch.look_at_start(now=clock.now())
