"""Every address: the API, the dashboard, and Django's error answers as problems."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from api.sign_in import change_own_password, sign_in

urlpatterns = [
    path("", include("api.urls")),
    # Before the dashboard's own addresses of the same names.
    path("admin/login/", sign_in),
    path("admin/password_change/", admin.site.admin_view(change_own_password, cacheable=True)),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]

handler400 = "api.problems.bad_request"
handler403 = "api.problems.forbidden"
handler404 = "api.problems.not_found"
handler500 = "api.problems.server_error"
