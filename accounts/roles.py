"""Who may do what: one table of permissions and roles, with the reach of each and the scope that a token needs for it.

`sync_roles` keeps Django's groups in step with it after every migration, docs/security.md is checked against it, and the walk over all
addresses (tests/test_security_walk.py) holds the product to it. Not in the table: nobody but administrators, with a token of scope `admin`.

Reach: `all` objects, `own` (those of applications that the person owns or is a member of; of tokens: one's own), or none. What is granted
directly to a person, or by a group that an administrator made, reaches all objects.
"""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from core.scope import Reach

ADMINISTRATOR, OPERATOR, DEVELOPER, AUDITOR = "administrator", "operator", "developer", "auditor"
ALL, OWN, NONE = Reach.ALL, Reach.OWN, Reach.NONE

#: What a token may be used for; effective is what both the person and the token may.
SCOPES: dict[str, Any] = {
    "read": _("Read everything that its person may read"),
    "write": _("Apply, change, operate"),
    "approve": _("Approve and decline requests"),
    "produce": _("Send messages"),
    "consume": _("Pull and settle messages"),
    "admin": _("Administer people, roles and what is administrators' only"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A permission: the scope that a token needs, and how far it reaches for each role; for administrators it reaches all."""

    scope: str
    operator: Reach
    developer: Reach
    auditor: Reach


TABLE: dict[str, Row] = {
    # Topics
    "topics.view_topic": Row("read", ALL, OWN, ALL),
    "topics.add_topic": Row("write", ALL, OWN, NONE),
    "topics.change_topic": Row("write", ALL, OWN, NONE),
    "topics.approve_topic": Row("approve", ALL, NONE, NONE),
    "topics.move_topic": Row("write", ALL, NONE, NONE),
    "topics.retire_topic": Row("write", ALL, NONE, NONE),
    "topics.delete_topic": Row("write", ALL, NONE, NONE),
    # Consumer groups and shadow groups
    "consumers.view_consumergroup": Row("read", ALL, OWN, ALL),
    "consumers.add_consumergroup": Row("write", ALL, OWN, NONE),
    "consumers.change_consumergroup": Row("write", ALL, OWN, NONE),
    "consumers.approve_consumergroup": Row("approve", ALL, NONE, NONE),
    "consumers.suspend_consumergroup": Row("write", ALL, OWN, NONE),
    "consumers.retire_consumergroup": Row("write", ALL, NONE, NONE),
    # What an import makes is active without a second person: administrators only.
    "consumers.import_consumergroup": Row("admin", NONE, NONE, NONE),
    "consumers.delete_consumergroup": Row("write", ALL, NONE, NONE),
    "consumers.view_shadowtask": Row("read", ALL, OWN, ALL),
    "consumers.add_shadowtask": Row("write", ALL, OWN, NONE),
    "consumers.switch_shadowtask": Row("write", ALL, OWN, NONE),
    "consumers.change_shadowtask": Row("write", ALL, OWN, NONE),
    "consumers.delete_shadowtask": Row("write", ALL, NONE, NONE),
    "consumers.view_subscription": Row("read", ALL, OWN, ALL),
    "consumers.add_subscription": Row("write", ALL, OWN, NONE),
    "consumers.change_subscription": Row("write", ALL, OWN, NONE),
    "consumers.delete_subscription": Row("write", ALL, OWN, NONE),
    # Messages; a developer's are those of own topics, and those of topics that an own active group is subscribed to
    "mq_messages.view_message": Row("read", ALL, OWN, ALL),
    "mq_messages.view_body": Row("read", ALL, OWN, NONE),
    "mq_messages.send_message": Row("produce", ALL, OWN, NONE),
    "mq_messages.consume_message": Row("consume", ALL, OWN, NONE),
    "mq_messages.change_delayed": Row("write", ALL, OWN, NONE),
    "mq_messages.decide_half": Row("write", ALL, OWN, NONE),
    "mq_messages.view_checkback": Row("read", ALL, OWN, ALL),
    "mq_messages.add_checkback": Row("write", ALL, OWN, NONE),
    "mq_messages.change_checkback": Row("write", ALL, OWN, NONE),
    "mq_messages.delete_checkback": Row("write", ALL, OWN, NONE),
    "mq_messages.view_redrive": Row("read", ALL, OWN, ALL),
    "mq_messages.add_redrive": Row("write", ALL, OWN, NONE),
    "mq_messages.change_redrive": Row("write", ALL, OWN, NONE),
    "mq_messages.delete_redrive": Row("write", ALL, NONE, NONE),
    "mq_messages.purge_dead": Row("write", ALL, OWN, NONE),
    "mq_messages.view_reset": Row("read", ALL, OWN, ALL),
    "mq_messages.add_reset": Row("write", ALL, OWN, NONE),
    "mq_messages.change_reset": Row("write", ALL, OWN, NONE),
    "mq_messages.delete_reset": Row("write", ALL, NONE, NONE),
    "mq_messages.decide_stopped": Row("write", ALL, OWN, NONE),
    "mq_messages.view_storage": Row("read", ALL, NONE, ALL),
    # Clusters: everybody sees what there is; where SDKs connect is no secret to those who run them
    "clusters.view_cluster": Row("read", ALL, ALL, ALL),
    "clusters.add_cluster": Row("write", ALL, NONE, NONE),
    "clusters.change_cluster": Row("write", ALL, NONE, NONE),
    "clusters.delete_cluster": Row("write", ALL, NONE, NONE),
    # ZooKeeper
    "registry.view_publication": Row("read", ALL, OWN, ALL),
    "registry.add_publication": Row("write", ALL, NONE, NONE),
    "registry.change_publication": Row("write", ALL, NONE, NONE),
    "registry.delete_publication": Row("write", ALL, NONE, NONE),
    "registry.view_release": Row("read", ALL, OWN, ALL),
    "registry.rollback_release": Row("write", ALL, NONE, NONE),
    "registry.view_drift": Row("read", ALL, OWN, ALL),
    "registry.change_drift": Row("write", ALL, NONE, NONE),
    "registry.view_driftpolicy": Row("read", ALL, NONE, ALL),
    "registry.change_driftpolicy": Row("write", ALL, NONE, NONE),
    "registry.view_gate": Row("read", ALL, OWN, ALL),
    "registry.add_gate": Row("write", ALL, NONE, NONE),
    "registry.change_gate": Row("write", ALL, NONE, NONE),
    "registry.view_instance": Row("read", ALL, OWN, ALL),
    # Service registries: what an own application provides or uses, with all who do
    "registry.view_service": Row("read", ALL, OWN, ALL),
    "registry.view_registration": Row("read", ALL, OWN, ALL),
    "registry.view_workerid": Row("read", ALL, OWN, ALL),
    "registry.view_zookeeper": Row("read", ALL, NONE, ALL),
    "registry.view_registrarheartbeat": Row("read", ALL, NONE, ALL),
    "registry.view_deployment": Row("read", ALL, NONE, ALL),
    # Requests. Policies decide without a person, so whoever writes them could approve their own: administrators only.
    "approvals.view_request": Row("read", ALL, OWN, ALL),
    "approvals.view_policy": Row("read", ALL, NONE, ALL),
    "approvals.view_notificationtarget": Row("read", ALL, NONE, ALL),
    "approvals.add_notificationtarget": Row("write", ALL, NONE, NONE),
    "approvals.change_notificationtarget": Row("write", ALL, NONE, NONE),
    "approvals.delete_notificationtarget": Row("write", ALL, NONE, NONE),
    "approvals.view_notificationdelivery": Row("read", ALL, NONE, ALL),
    # Saved views of lists: one's own need no permission, sharing with everybody does
    "console.share_savedview": Row("write", ALL, NONE, NONE),
    # Operations
    "operations.view_operation": Row("read", ALL, OWN, ALL),
    "operations.change_operation": Row("write", ALL, OWN, NONE),
    # Applications and their keys
    "accounts.view_application": Row("read", ALL, OWN, ALL),
    "accounts.add_application": Row("write", ALL, NONE, NONE),
    "accounts.change_application": Row("write", ALL, OWN, NONE),
    "accounts.delete_application": Row("write", ALL, NONE, NONE),
    "accounts.view_applicationkey": Row("read", ALL, OWN, ALL),
    "accounts.add_applicationkey": Row("write", ALL, OWN, NONE),
    "accounts.delete_applicationkey": Row("write", ALL, OWN, NONE),
    # One's own tokens; those of others are administrators'
    "accounts.view_apitoken": Row("read", OWN, OWN, ALL),
    "accounts.add_apitoken": Row("write", OWN, OWN, OWN),
    "accounts.delete_apitoken": Row("write", OWN, OWN, OWN),
    # People and oversight
    "accounts.view_user": Row("read", NONE, NONE, ALL),
    "auth.view_group": Row("read", NONE, NONE, ALL),
    "audit.view_auditentry": Row("read", ALL, OWN, ALL),
}

#: What the key of an application may, all of it within that application only.
KEY_PERMISSIONS = frozenset(
    {"topics.view_topic", "consumers.view_consumergroup", "mq_messages.send_message", "mq_messages.consume_message"}
)


@dataclass(frozen=True, slots=True)
class Role:
    """A role: a word for people, and who it is for."""

    key: str
    label: Any
    summary: Any

    def reach(self, permission: str) -> Reach:
        """How far a permission reaches for people of this role."""
        if self.key == ADMINISTRATOR:
            return ALL
        row = TABLE.get(permission)
        return NONE if row is None else getattr(row, self.key)


ROLES: dict[str, Role] = {
    role.key: role
    for role in (
        Role(ADMINISTRATOR, _("Administrator"), _("Everything, people and roles included. Four eyes hold for administrators too.")),
        Role(OPERATOR, _("Operator"), _("Everything with topics, groups, clusters and messages; no people, roles, or tokens of others.")),
        Role(
            DEVELOPER,
            _("Developer"),
            _("Sees and works with the applications that they own or are a member of; others decide on their requests."),
        ),
        Role(AUDITOR, _("Auditor"), _("Reads everything, the audit included, but no bodies of messages; changes nothing.")),
    )
}


def scope_of(permission: str) -> str:
    """The scope that a token needs for a permission."""
    row = TABLE.get(permission)
    return row.scope if row else "admin"
