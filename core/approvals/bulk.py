"""Many requests at once: approve and decline. New topics go to the cluster that is recommended for each."""

from typing import Any

from django.db.models import CharField
from django.db.models.functions import Cast
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from core.api.fields import OptionalReasonSerializer, ReasonSerializer
from core.approvals import kinds, workflow
from core.approvals.models import Request, Standing
from core.bulk import Bulk, Resource, Values, register, verb
from core.console.actions import NOT_ALLOWED
from core.scope import may


class ApprovalSerializer(OptionalReasonSerializer):
    """A remark; what goes over a cluster's limit is approved only expressly."""

    accept_warnings = serializers.BooleanField(default=False)


def _filterset() -> Any:
    from core.approvals.api import RequestFilter

    return RequestFilter


def why_not(user: Any, request: Request) -> Any:
    """Why somebody cannot decide it now, empty if they can; the workflow checks it again."""
    decide = kinds.of(request).decide
    if request.state != Standing.PENDING:
        return _("It is decided already.")
    if not user.has_perm(decide) or not may(user, decide, request):
        return NOT_ALLOWED
    if request.requested_by_id == user.pk:
        return _("You applied for this yourself; another person decides.")
    return ""


def _approve(actor: Any, request: Request, values: Values) -> None:
    workflow.approve(actor=actor, request=request, version=request.version, suggest=True, **values)


def _decline(actor: Any, request: Request, values: Values) -> None:
    workflow.decline(actor=actor, request=request, version=request.version, **values)


register(
    Resource(
        "requests",
        label=_("Requests"),
        # The number as text: whatever a caller names is looked up, and not found, instead of being refused by the database.
        rows=lambda: Request.objects.select_related("application", "requested_by").annotate(number=Cast("pk", CharField())),
        filterset=_filterset,
        lists="core.approvals.console.Requests",
        list_url="requests",
        here="requests",
        key="number",
    )
)
# Who may decide is each kind's to say, so the workflow checks it; to see it is what is common to all.
verb(
    Bulk(
        "requests",
        "approve",
        label=_("Approve"),
        permission="approvals.view_request",
        serializer=ApprovalSerializer,
        run=_approve,
        why_not=why_not,
        form="core.console.pages.OptionalReasonForm",
        tone="primary",
    )
)
verb(
    Bulk(
        "requests",
        "decline",
        label=_("Decline"),
        permission="approvals.view_request",
        serializer=ReasonSerializer,
        run=_decline,
        why_not=why_not,
        form="core.console.pages.ReasonForm",
    )
)
