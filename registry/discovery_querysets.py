"""Set-based reads of what stands in the service registries."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from accounts.models import Application
from core.scope import Principal, ScopedQuerySet

if TYPE_CHECKING:
    from registry.discovery_models import Registration, Service, WorkerId  # noqa: F401 - for the quoted names below

#: For so long whoever left without a goodbye is what somebody should look at.
LATELY = timedelta(days=1)


def _own_names(user: Principal) -> Any:
    """The names of the person's applications, as a subquery: registries know applications by name only."""
    return Application.objects.filter(pk__in=user.own_applications()).values("name")


class ServiceQuerySet(ScopedQuerySet["Service"]):
    """Services, applications and jobs."""

    def own(self, user: Principal) -> Q:
        """Those that one of the person's applications provides or uses, and what is registered in its name.

        Whoever uses a service is told by the registry who else does, so all of such a service is shown.
        """
        from registry.discovery_models import Registration

        names = _own_names(user)
        used = Registration.objects.filter(app__in=names).values("service")
        return Q(pk__in=used) | Q(layout="messages", name__in=names)

    def with_apps(self) -> Self:
        """Annotate `apps`: the names of the applications that provide it or run it now, twenty at most."""
        from registry.discovery_models import Registration

        serving = Registration.objects.online().filter(service=OuterRef("pk"), kind__in=[*Registration.SERVING, "candidate"])
        names = serving.exclude(app="").order_by("app").values("app").distinct()[:20]
        return self.annotate(apps=ArraySubquery(names))

    def laid_out(self, layout: str) -> Self:
        """Those of one layout."""
        return self.filter(layout=layout)

    def wanted(self) -> Self:
        """Those that are used, and that nobody provides."""
        return self.filter(providers=0, consumers__gt=0)

    def deserted(self) -> Self:
        """Those of which somebody left without a goodbye lately."""
        from registry.discovery_models import Registration

        return self.filter(Exists(Registration.objects.lost_lately().filter(service=OuterRef("pk"))))


class RegistrationQuerySet(ScopedQuerySet["Registration"]):
    """Registrations."""

    def own(self, user: Principal) -> Q:
        """All those of the services that the person sees."""
        from registry.discovery_models import Service

        return Q(service__in=Service.objects.filter(Service.objects.all().own(user)).values("pk"))

    def online(self) -> Self:
        """Those whose node stands."""
        return self.filter(online=True)

    def lost(self) -> Self:
        """Those that are gone without a goodbye."""
        return self.filter(online=False, departure="lost")

    def lost_lately(self) -> Self:
        """Those of the last day, unless they are back under another name: the same application at the same address."""
        from registry.discovery_models import Registration

        back = Registration.objects.filter(
            service=OuterRef("service"), kind=OuterRef("kind"), app=OuterRef("app"), address=OuterRef("address"), online=True
        )
        return self.lost().filter(~Exists(back), offline_at__gte=Now() - LATELY)


class WorkerIdQuerySet(ScopedQuerySet["WorkerId"]):
    """Worker ids."""

    def own(self, user: Principal) -> Q:
        """Those of the person's applications."""
        return Q(app__in=_own_names(user))

    def doubled(self) -> Self:
        """Those whose number another host has as well, which must never be."""
        from registry.discovery_models import WorkerId

        return self.filter(Exists(WorkerId.objects.filter(number=OuterRef("number")).exclude(pk=OuterRef("pk"))))
