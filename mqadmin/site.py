"""Django's admin as the operator's console."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _


class OpsAdminSite(admin.AdminSite):
    """The console's site: Django's own pages in our theme, the overview as its index."""

    site_title = "mqadmin"
    site_header = "mqadmin"
    index_title = _("Overview")
    enable_nav_sidebar = False
