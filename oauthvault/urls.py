"""Every address: the API, the dashboard, and Django's error answers as problems."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from api.sign_in import change_own_password, second_step, sign_in
from tokens.admin import account

_of_the_dashboard = admin.site.admin_view

urlpatterns = [
    path("", include("api.urls")),
    # Before the dashboard's own addresses of the same names.
    path("admin/login/", sign_in),
    path("admin/login/second_step/", _of_the_dashboard(second_step), name="second_step"),
    path("admin/password_change/", _of_the_dashboard(change_own_password)),
    path("admin/account/", _of_the_dashboard(account.show), name="account"),
    path(
        "admin/account/second_factor/",
        _of_the_dashboard(account.enrol),
        name="enrol_second_factor",
    ),
    path(
        "admin/account/recovery_codes/",
        _of_the_dashboard(account.recovery_codes),
        name="new_recovery_codes",
    ),
    path(
        "admin/account/remove_second_factor/",
        _of_the_dashboard(account.remove),
        name="remove_second_factor",
    ),
    path("admin/account/prove/", _of_the_dashboard(account.prove), name="prove"),
    path(
        "admin/account/sign_out_everywhere/",
        _of_the_dashboard(account.sign_out_everywhere),
        name="sign_out_everywhere",
    ),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]

handler400 = "api.problems.bad_request"
handler403 = "api.problems.forbidden"
handler404 = "api.problems.not_found"
handler500 = "api.problems.server_error"
