from django.apps import AppConfig


class OauthvaultConfig(AppConfig):
    name = "oauthvault"

    def ready(self) -> None:
        from oauthvault import celery  # noqa: F401  every process knows the broker
