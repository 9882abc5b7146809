"""The WSGI application, as `oauthvault web` serves it."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")

application = get_wsgi_application()

# After the application is there: what an earlier process could not save is looked after.
from tokens import epoch  # noqa: E402
from tokens.refresh.replay import pick_up  # noqa: E402

epoch.serve()
pick_up()
