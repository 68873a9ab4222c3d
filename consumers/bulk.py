"""What can be done with many consumer groups at once."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import User
from consumers import imports_work, services  # noqa: F401 - the first registers its kind of operation
from consumers.models import ConsumerGroup
from core.api.fields import OptionalReasonSerializer, ReasonSerializer
from core.approvals.models import State
from core.bulk import Bulk, Resource, Values, register, verb
from core.console.approving import why_not
from core.errors import Problem
from topics.bulk import OwnerSerializer
from topics.ownership import as_owned, change_owner, change_owners

SUSPEND, RETIRE, APPROVE = "consumers.suspend_consumergroup", "consumers.retire_consumergroup", "consumers.approve_consumergroup"
CHANGE = "consumers.change_consumergroup"


def _filterset() -> Any:
    from consumers.api import GroupFilter

    return GroupFilter


def _hand_over(actor: User, group: ConsumerGroup, values: Values) -> None:
    change_owner(actor=actor, kind="consumer group", thing=group, **values)


def _hand_over_many(actor: User, groups: Sequence[ConsumerGroup], values: Values) -> Sequence[Problem | None]:
    return change_owners(actor=actor, kind="consumer group", things=groups, **values)


def _why_not_suspend(user: User, group: ConsumerGroup) -> Any:
    return why_not(user, SUSPEND, group, [State.ACTIVE]) or (_("It is suspended already.") if group.suspended else "")


def _why_not_resume(user: User, group: ConsumerGroup) -> Any:
    return why_not(user, SUSPEND, group, [State.ACTIVE]) or ("" if group.suspended else _("It is not suspended."))


register(
    Resource(
        "consumer-groups",
        label=gettext_lazy("Consumer groups"),
        rows=lambda: ConsumerGroup.objects.select_related("application", "owner"),
        filterset=_filterset,
        lists="consumers.console.Groups",
        here="groups",
    )
)
for _bulk in (
    Bulk(
        "consumer-groups",
        "approve",
        label=gettext_lazy("Approve"),
        permission=APPROVE,
        serializer=OptionalReasonSerializer,
        run=lambda actor, group, values: services.approve(actor=actor, group=group, **values),
        why_not=lambda user, group: why_not(user, APPROVE, group, [State.PENDING], four_eyes=True),
        form="core.console.pages.OptionalReasonForm",
        tone="primary",
    ),
    Bulk(
        "consumer-groups",
        "reject",
        label=gettext_lazy("Reject"),
        permission=APPROVE,
        serializer=ReasonSerializer,
        run=lambda actor, group, values: services.reject(actor=actor, group=group, **values),
        why_not=lambda user, group: why_not(user, APPROVE, group, [State.PENDING], four_eyes=True),
        form="core.console.pages.ReasonForm",
    ),
    Bulk(
        "consumer-groups",
        "suspend",
        label=gettext_lazy("Suspend"),
        permission=SUSPEND,
        serializer=ReasonSerializer,
        run=lambda actor, group, values: services.suspend(actor=actor, group=group, **values),
        why_not=_why_not_suspend,
        form="core.console.pages.ReasonForm",
    ),
    Bulk(
        "consumer-groups",
        "resume",
        label=gettext_lazy("Resume"),
        permission=SUSPEND,
        serializer=OptionalReasonSerializer,
        run=lambda actor, group, values: services.resume(actor=actor, group=group, **values),
        why_not=_why_not_resume,
        form="core.console.pages.OptionalReasonForm",
    ),
    Bulk(
        "consumer-groups",
        "change-owner",
        label=gettext_lazy("Change owner"),
        permission=CHANGE,
        serializer=OwnerSerializer,
        run=_hand_over,
        run_many=_hand_over_many,
        many_rows=as_owned,
        why_not=lambda user, group: why_not(user, CHANGE, group, [State.ACTIVE]),
        form="topics.console_bulk.OwnerForm",
    ),
    Bulk(
        "consumer-groups",
        "retire",
        label=gettext_lazy("Retire"),
        permission=RETIRE,
        serializer=ReasonSerializer,
        run=lambda actor, group, values: services.retire(actor=actor, group=group, **values),
        why_not=lambda user, group: why_not(user, RETIRE, group, [State.ACTIVE]),
        form="core.console.pages.ReasonForm",
        tone="danger",
    ),
):
    verb(_bulk)
