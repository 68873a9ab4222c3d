"""The verbs of shadow groups: switched on for a stress test with a lease, off by hand or by themselves."""

from datetime import timedelta

import structlog
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.applications import require_application
from accounts.models import Application, User
from consumers.models import ConsumerGroup, ShadowTask
from core.approvals.models import State
from core.approvals.services import require_reason
from core.audit.services import record
from core.errors import FieldError, Problem, conflict
from core.names import check_name
from registry import services as registry
from registry.models import Instance
from registry.releases import Change
from topics.models import Topic

log = structlog.get_logger(__name__)

MAX_MINUTES = 24 * 60


def create(*, actor: User, application: Application, task: str, group: ConsumerGroup, topic: Topic) -> ShadowTask:
    """Add a shadow group, off. Raises `invalid_name`, `duplicate_name`, `not_active`, `not_subscribed`, `wrong_application`."""
    require_application(actor, "consumers.add_shadowtask", application)
    check_name(task, pointer="/task")
    check_name(application.name, pointer="/application")
    if group.application_id != application.pk:
        detail = _("The group “{group}” belongs to the application “{owner}”.").format(group=group.name, owner=group.application.name)
        raise Problem("wrong_application", detail, errors=[FieldError("/group", detail)])
    if group.state != State.ACTIVE or topic.state != State.ACTIVE:
        raise conflict("not_active", _("Group and topic must both be active."))
    if not group.subscriptions.filter(topic=topic).exists():
        detail = _("The group “{group}” is not subscribed to “{topic}”.").format(group=group.name, topic=topic.name)
        raise Problem("not_subscribed", detail, errors=[FieldError("/topic", detail)])
    try:
        with transaction.atomic():
            _lock_active(group)
            shadow = ShadowTask.objects.create(application=application, task=task, group=group, topic=topic, owner=actor)
            record(actor=actor, action="create", kind="shadow group", name=str(shadow))
            _publish(shadow, Change(author=actor, message="Shadow group added, off."))
    except IntegrityError:
        raise conflict("duplicate_name", _("This shadow group is there already.")) from None
    return shadow


def start(*, actor: User, shadow: ShadowTask, minutes: int, reason: str) -> ShadowTask:
    """Switch on for so many minutes; SDK and control plane both end it then, even if the other is gone. Again: a new lease."""
    reason = require_reason(reason)
    if not 1 <= minutes <= MAX_MINUTES:
        detail = _("Between 1 and {minutes} minutes.").format(minutes=MAX_MINUTES)
        raise Problem("invalid", detail, errors=[FieldError("/minutes", detail)])
    with transaction.atomic():
        _lock_active(shadow.group)
        until = timezone.now() + timedelta(minutes=minutes)
        _set(shadow, enabled=True, lease_until=until, reason=reason, owner_id=actor.pk)
        record(
            actor=actor, action="switch on", kind="shadow group", name=str(shadow), after={"lease_until": until.isoformat()}, reason=reason
        )
        _publish(shadow, Change(author=actor, message=reason))
    return shadow


def stop(*, actor: User | None, shadow: ShadowTask, reason: str, change: Change | None = None) -> ShadowTask:
    """Switch off; harmless when it is off."""
    if shadow.enabled:
        with transaction.atomic():
            _switch_off(shadow, actor, reason, change or Change(author=actor, message=reason))
    return shadow


def stop_all(*, actor: User, reason: str, application: str = "", task: str = "") -> list[ShadowTask]:
    """Switch every shadow group within the person's reach off, or those of an application or a stress test; returns those that were on."""
    reason = require_reason(reason)
    rows, change = switched_on(actor, application=application, task=task), Change(author=actor, message=reason)
    with transaction.atomic():
        # Locked: who gives one of them a new lease just now comes too late, instead of this stopping over it.
        shadows = list(rows.select_for_update(of=("self",), no_key=True))
        for shadow in shadows:
            _switch_off(shadow, actor, reason, change)
    return shadows


def switched_on(actor: User, *, application: str = "", task: str = "") -> QuerySet[ShadowTask, ShadowTask]:
    """What `stop_all` would switch off, in the order of their nodes."""
    rows = ShadowTask.objects.restrict(actor, "switch").filter(enabled=True)
    if application:
        rows = rows.filter(application__name=application)
    if task:
        rows = rows.filter(task=task)
    return rows.select_related("application", "group", "topic", "owner").order_by("application__name", "task", "group__name")


def running(shadow: ShadowTask, user: User) -> list[Instance]:
    """The shadow consumers that run now, as far as the person may see them."""
    rows = Instance.objects.online().at([shadow.zookeeper_path]).restrict(user).with_applied()
    return list(rows.order_by("app", "node")[:500])


def unleased(shadow: ShadowTask, user: User) -> list[Instance]:
    """Plain ZMS clients that follow the group or the shadow group: nobody but the control plane ends the lease for them."""
    rows = Instance.objects.online().at([shadow.zookeeper_path, shadow.group.zookeeper_path]).filter(plain=True)
    return list(rows.restrict(user).with_applied().order_by("app", "node")[:500])


def end_expired() -> int:
    """Switch off what has passed its lease; returns how many.

    A task calls it, and each registrar every second, so that it happens while no Celery runs: of several, one wins.
    """
    over = ShadowTask.objects.filter(enabled=True, lease_until__lte=Now())
    shadows = list(over.select_related("application", "group", "topic")[:500])
    for shadow in shadows:
        try:
            stop(actor=None, shadow=shadow, reason="lease ended")
        except Problem:  # somebody was faster, or gave it a new lease: the next round looks again
            continue
        except DatabaseError:  # it holds up no other; the next round tries again
            if connection.in_atomic_block or not connection.is_usable():
                raise
            log.exception("shadow_lease_not_ended", shadow=str(shadow))
    return len(shadows)


def _switch_off(shadow: ShadowTask, actor: User | None, reason: str, change: Change) -> None:
    _set(shadow, enabled=False, lease_until=None, reason=reason)
    record(actor=actor, action="switch off", kind="shadow group", name=str(shadow), reason=reason)
    _publish(shadow, change)


def _lock_active(group: ConsumerGroup) -> None:
    """Keep the group from being retired until the transaction ends: its node could never go while a shadow group is on."""
    if not ConsumerGroup.objects.select_for_update(no_key=True).filter(pk=group.pk, state=State.ACTIVE).exists():
        raise conflict("not_active", _("The group “{name}” is not active.").format(name=group.name))


def _set(shadow: ShadowTask, **values: object) -> None:
    found = ShadowTask.objects.filter(pk=shadow.pk, version=shadow.version).update(
        version=F("version") + 1, changed_at=timezone.now(), **values
    )
    if found != 1:
        raise conflict("state_changed", _("Somebody else switched this in the meantime."), hint=_("Look again and decide anew."))
    shadow.refresh_from_db()


def _publish(shadow: ShadowTask, change: Change) -> None:
    registry.publish_json(
        path=shadow.zookeeper_path,
        document={
            "enable": "1" if shadow.enabled else "0",
            "task": shadow.task,
            "group": shadow.group.name,
            "topic": shadow.topic.name,
            "leaseUntil": shadow.lease_until.isoformat(timespec="milliseconds").replace("+00:00", "Z") if shadow.lease_until else None,
        },
        requires=[shadow.group.zookeeper_path],
        change=change,
    )
