"""What each address asks for, by the name of its route: `METHOD=permission`, or `public`, `any` (whoever has a credential),
`self` (whoever is signed in, for what is theirs), `nobody`. The walk holds the product to it; a new address is added here by hand."""

RULES = """
-: public
healthz: public
readyz: public
metrics: public
me: any
application-keys: GET=accounts.view_applicationkey POST=accounts.add_applicationkey
application-key: GET=accounts.view_applicationkey DELETE=accounts.delete_applicationkey
operation-failures: GET=operations.view_operation
bulk: any
cluster-moves: POST=topics.move_topic
imports: POST=consumers.import_consumergroup
manifest: GET=topics.view_topic
send: POST=mq_messages.send_message
pull: POST=mq_messages.consume_message
acks: POST=mq_messages.consume_message
next: POST=mq_messages.consume_message
extension: POST=mq_messages.consume_message
departure: POST=mq_messages.consume_message
clients: POST=mq_messages.send_message
client: DELETE=mq_messages.send_message
client-heartbeat: POST=mq_messages.send_message
messages: GET=mq_messages.view_message
message: GET=mq_messages.view_message
message-trace: GET=mq_messages.view_message
delayed-messages: GET=mq_messages.view_message
delayed-messages-hours: GET=mq_messages.view_message
delayed-messages-cancellations: POST=mq_messages.change_delayed
delayed-messages-reschedules: POST=mq_messages.change_delayed
delayed-message: GET=mq_messages.view_message PATCH=mq_messages.change_delayed DELETE=mq_messages.change_delayed
epochs: POST=mq_messages.send_message
transactions: POST=mq_messages.send_message
half-prepare: POST=mq_messages.send_message
half-open: POST=mq_messages.send_message
half-commit: POST=mq_messages.send_message
half-rollback: POST=mq_messages.send_message
half-messages: GET=mq_messages.view_message
half-message: GET=mq_messages.view_message
half-decision: POST=mq_messages.decide_half
check-back: GET=mq_messages.view_checkback PUT=mq_messages.add_checkback DELETE=mq_messages.delete_checkback
check-back-secret: POST=mq_messages.change_checkback
consumption: GET=consumers.view_consumergroup
push: GET=consumers.view_consumergroup
dead-letters: GET=mq_messages.view_message
dead-letters-causes: GET=mq_messages.view_message
dead-letters-export: GET=mq_messages.view_message
dead-letter-redrive: POST=mq_messages.add_redrive
purges: POST=mq_messages.purge_dead
stopped-keys: GET=mq_messages.view_message
workers: GET=consumers.view_consumergroup
stopped-keys-decisions: POST=mq_messages.decide_stopped
topic-retention: GET=topics.view_topic
partitions: GET=mq_messages.view_storage
redrives: GET=mq_messages.view_redrive POST=mq_messages.add_redrive
resets: GET=mq_messages.view_reset POST=mq_messages.add_reset
reset-preview: GET=mq_messages.view_reset
reset: GET=mq_messages.view_reset
reset-undo: POST=mq_messages.change_reset
broadcast-instances: GET=consumers.view_consumergroup
broadcast-instances-given-up: POST=consumers.change_consumergroup
application-list: GET=accounts.view_application POST=accounts.add_application
application-detail: GET=accounts.view_application PUT=accounts.add_application
application-detail: PATCH=accounts.change_application DELETE=accounts.delete_application
token-list: GET=accounts.view_apitoken POST=accounts.add_apitoken
token-detail: GET=accounts.view_apitoken DELETE=accounts.delete_apitoken
audit-entry-list: GET=audit.view_auditentry
audit-entry-detail: GET=audit.view_auditentry
request-list: GET=approvals.view_request POST=approvals.view_request
request-detail: GET=approvals.view_request PATCH=approvals.view_request
request-approval: POST=approvals.view_request
request-comments: POST=approvals.view_request
request-placement: GET=approvals.view_request
request-rejection: POST=approvals.view_request
request-submission: POST=approvals.view_request
request-withdrawal: POST=approvals.view_request
policy-list: GET=approvals.view_policy POST=approvals.add_policy
policy-detail: GET=approvals.view_policy PATCH=approvals.change_policy DELETE=approvals.delete_policy
notification-target-list: GET=approvals.view_notificationtarget POST=approvals.add_notificationtarget
notification-target-detail: GET=approvals.view_notificationtarget
notification-target-detail: PATCH=approvals.change_notificationtarget DELETE=approvals.delete_notificationtarget
notification-target-secret: POST=approvals.change_notificationtarget
notification-list: GET=approvals.view_notificationdelivery
notification-detail: GET=approvals.view_notificationdelivery
notification-retry: POST=approvals.change_notificationtarget
operation-list: GET=operations.view_operation
operation-detail: GET=operations.view_operation
operation-cancellation: POST=operations.change_operation
operation-pause: POST=operations.change_operation
operation-resume: POST=operations.change_operation
operation-retries: POST=operations.change_operation
cluster-list: GET=clusters.view_cluster POST=clusters.add_cluster
cluster-detail: GET=clusters.view_cluster PUT=clusters.add_cluster PATCH=clusters.change_cluster DELETE=clusters.delete_cluster
topic-list: GET=topics.view_topic POST=topics.add_topic
topic-detail: GET=topics.view_topic PUT=topics.add_topic PATCH=topics.add_topic
topic-approval: POST=topics.approve_topic
topic-applied: GET=topics.view_topic
topic-moves: POST=topics.move_topic
topic-drained-clusters: POST=topics.move_topic
topic-rejection: POST=topics.approve_topic
topic-retirement: POST=topics.retire_topic
topic-submission: POST=topics.add_topic
consumer-group-list: GET=consumers.view_consumergroup POST=consumers.add_consumergroup
consumer-group-detail: GET=consumers.view_consumergroup PUT=consumers.add_consumergroup PATCH=consumers.add_consumergroup
consumer-group-applied: GET=consumers.view_consumergroup
consumer-group-approval: POST=consumers.approve_consumergroup
consumer-group-push-secret: POST=consumers.change_consumergroup
consumer-group-rejection: POST=consumers.approve_consumergroup
consumer-group-resumption: POST=consumers.suspend_consumergroup
consumer-group-retirement: POST=consumers.retire_consumergroup
consumer-group-submission: POST=consumers.add_consumergroup
consumer-group-suspension: POST=consumers.suspend_consumergroup
shadow-task-list: GET=consumers.view_shadowtask POST=consumers.add_shadowtask
shadow-task-detail: GET=consumers.view_shadowtask
shadow-task-start: POST=consumers.switch_shadowtask
shadow-task-stop: POST=consumers.switch_shadowtask
shadow-task-stop-all: POST=consumers.switch_shadowtask
shadow-task-applied: GET=consumers.view_shadowtask
publication-list: GET=registry.view_publication
publication-detail: GET=registry.view_publication
gate-list: GET=registry.view_gate POST=registry.add_gate
gate-detail: GET=registry.view_gate
gate-promotion: POST=registry.change_gate
gate-abandonment: POST=registry.change_gate
gate-closure: POST=registry.change_gate
release-list: GET=registry.view_release
release-detail: GET=registry.view_release
release-rollback: POST=registry.rollback_release
drift-list: GET=registry.view_drift
drift-detail: GET=registry.view_drift
drift-repair: POST=registry.change_drift
drift-adoption: POST=registry.change_drift
drift-policy-list: GET=registry.view_driftpolicy
drift-policy-detail: GET=registry.view_driftpolicy PATCH=registry.change_driftpolicy
publication-applied: GET=registry.view_publication
zookeeper: GET=registry.view_zookeeper
zookeeper-rebuild: POST=registry.change_publication
zookeeper-check: POST=registry.change_drift
zookeeper-export: GET=registry.view_publication
registrar-list: GET=registry.view_registrarheartbeat
registrar-detail: GET=registry.view_registrarheartbeat
instance-list: GET=registry.view_instance
service-list: GET=registry.view_service
service-detail: GET=registry.view_service
registration-list: GET=registry.view_registration
registration-detail: GET=registry.view_registration
worker-id-list: GET=registry.view_workerid
worker-id-detail: GET=registry.view_workerid
instance-detail: GET=registry.view_instance
schema: any
api-docs: any
set_language: public
admin:find: self
admin:accounts_tokens: GET=accounts.view_apitoken
admin:accounts_token_add: GET=accounts.add_apitoken POST=accounts.add_apitoken
admin:accounts_token_revoke: GET=accounts.delete_apitoken POST=accounts.delete_apitoken
admin:accounts_keys: GET=accounts.view_applicationkey
admin:accounts_key_add: GET=accounts.add_applicationkey POST=accounts.add_applicationkey
admin:accounts_key_revoke: GET=accounts.delete_applicationkey POST=accounts.delete_applicationkey
admin:accounts_sessions: self
admin:accounts_sessions_end: self
admin:accounts_session_end: self
admin:accounts_lockouts: GET=accounts.administer_user
admin:accounts_unlock: GET=accounts.administer_user POST=accounts.administer_user
admin:list_views: self
admin:audit_list: GET=audit.view_auditentry
admin:audit_detail: GET=audit.view_auditentry
admin:requests: GET=approvals.view_request
admin:request_detail: GET=approvals.view_request POST=approvals.view_request
admin:request_approve: GET=approvals.view_request POST=approvals.view_request
admin:request_decline: GET=approvals.view_request POST=approvals.view_request
admin:request_withdraw: GET=approvals.view_request POST=approvals.view_request
admin:request_resubmit: GET=approvals.view_request POST=approvals.view_request
admin:request_rebase: GET=approvals.view_request POST=approvals.view_request
admin:policies: GET=approvals.view_policy
admin:policy_add: GET=approvals.add_policy POST=approvals.add_policy
admin:policy_edit: GET=approvals.change_policy POST=approvals.change_policy
admin:policy_delete: GET=approvals.delete_policy POST=approvals.delete_policy
admin:notification_targets: GET=approvals.view_notificationtarget
admin:notification_own: self
admin:notification_target_add: GET=approvals.add_notificationtarget POST=approvals.add_notificationtarget
admin:notification_target_edit: GET=approvals.change_notificationtarget POST=approvals.change_notificationtarget
admin:notification_target_secret: GET=approvals.change_notificationtarget POST=approvals.change_notificationtarget
admin:notification_target_delete: GET=approvals.delete_notificationtarget POST=approvals.delete_notificationtarget
admin:notification_retry: POST=approvals.change_notificationtarget
admin:bulk: self
admin:operations_list: GET=operations.view_operation
admin:operations_news: GET=operations.view_operation
admin:operations_detail: GET=operations.view_operation
admin:operations_part: GET=operations.view_operation
admin:operations_events: GET=operations.view_operation
admin:operations_pause: GET=operations.change_operation POST=operations.change_operation
admin:operations_resume: GET=operations.change_operation POST=operations.change_operation
admin:operations_cancel: GET=operations.change_operation POST=operations.change_operation
admin:operations_retry: GET=operations.change_operation POST=operations.change_operation
admin:registry_publications: GET=registry.view_publication
admin:registry_publication: GET=registry.view_publication POST=registry.change_publication
admin:registry_gates: GET=registry.view_gate
admin:registry_gate_add: GET=registry.add_gate POST=registry.add_gate
admin:registry_gate: GET=registry.view_gate
admin:registry_gate_promote: GET=registry.change_gate POST=registry.change_gate
admin:registry_gate_abandon: GET=registry.change_gate POST=registry.change_gate
admin:registry_gate_close: GET=registry.change_gate POST=registry.change_gate
admin:registry_releases: GET=registry.view_release
admin:registry_release: GET=registry.view_release
admin:registry_rollback: GET=registry.rollback_release POST=registry.rollback_release
admin:registry_zookeeper: GET=registry.view_zookeeper
admin:registry_rebuild: GET=registry.change_publication POST=registry.change_publication
admin:registry_check: GET=registry.change_drift POST=registry.change_drift
admin:registry_export: GET=registry.view_publication
admin:registry_drifts: GET=registry.view_drift
admin:registry_drift: GET=registry.view_drift
admin:registry_drift_adopt: GET=registry.change_drift POST=registry.change_drift
admin:registry_drift_repair: GET=registry.change_drift POST=registry.change_drift
admin:registry_drift_policies: GET=registry.view_driftpolicy
admin:registry_drift_policy: GET=registry.change_driftpolicy POST=registry.change_driftpolicy
admin:registry_instances: GET=registry.view_instance
admin:registry_services: GET=registry.view_service
admin:registry_service: GET=registry.view_service
admin:registry_producers: GET=registry.view_service
admin:registry_jobs: GET=registry.view_service
admin:registry_registrations: GET=registry.view_registration
admin:registry_worker_ids: GET=registry.view_workerid
admin:registry_instance: GET=registry.view_instance
admin:clusters_list: GET=clusters.view_cluster
admin:clusters_add: GET=clusters.add_cluster POST=clusters.add_cluster
admin:clusters_detail: GET=clusters.view_cluster
admin:clusters_edit: GET=clusters.change_cluster POST=clusters.change_cluster
admin:clusters_limits: GET=clusters.change_cluster POST=clusters.change_cluster
admin:topics_list: GET=topics.view_topic
admin:topics_apply: GET=topics.add_topic POST=topics.add_topic
admin:topics_detail: GET=topics.view_topic
admin:topics_groups: GET=topics.view_topic
admin:topics_instances: GET=registry.view_instance
admin:topics_publication: GET=topics.view_topic
admin:topics_releases: GET=registry.view_release
admin:topics_audit: GET=topics.view_topic
admin:topics_edit: GET=topics.add_topic POST=topics.add_topic
admin:topics_resubmit: GET=topics.add_topic POST=topics.add_topic
admin:topics_approve: GET=topics.approve_topic POST=topics.approve_topic
admin:topics_reject: GET=topics.approve_topic POST=topics.approve_topic
admin:topics_ask_change: GET=topics.add_topic POST=topics.add_topic
admin:topics_ask_retire: GET=topics.add_topic POST=topics.add_topic
admin:consumers_import: GET=consumers.import_consumergroup POST=consumers.import_consumergroup
admin:topics_move_all: GET=topics.move_topic POST=topics.move_topic
admin:topics_move: GET=topics.move_topic POST=topics.move_topic
admin:topics_end_draining: GET=topics.move_topic POST=topics.move_topic
admin:topics_retire: GET=topics.retire_topic POST=topics.retire_topic
admin:consumers_list: GET=consumers.view_consumergroup
admin:consumers_apply: GET=consumers.add_consumergroup POST=consumers.add_consumergroup
admin:consumers_detail: GET=consumers.view_consumergroup
admin:consumers_instances: GET=registry.view_instance
admin:consumers_publication: GET=consumers.view_consumergroup
admin:consumers_releases: GET=registry.view_release
admin:consumers_audit: GET=consumers.view_consumergroup
admin:consumers_edit: GET=consumers.add_consumergroup POST=consumers.add_consumergroup
admin:consumers_resubmit: GET=consumers.add_consumergroup POST=consumers.add_consumergroup
admin:consumers_approve: GET=consumers.approve_consumergroup POST=consumers.approve_consumergroup
admin:consumers_reject: GET=consumers.approve_consumergroup POST=consumers.approve_consumergroup
admin:consumers_ask_change: GET=consumers.add_consumergroup POST=consumers.add_consumergroup
admin:consumers_ask_retire: GET=consumers.add_consumergroup POST=consumers.add_consumergroup
admin:consumers_suspend: GET=consumers.suspend_consumergroup POST=consumers.suspend_consumergroup
admin:consumers_resume: GET=consumers.suspend_consumergroup POST=consumers.suspend_consumergroup
admin:consumers_push_secret: GET=consumers.change_consumergroup POST=consumers.change_consumergroup
admin:consumers_retire: GET=consumers.retire_consumergroup POST=consumers.retire_consumergroup
admin:consumers_shadow: GET=consumers.view_shadowtask
admin:consumers_shadow_add: GET=consumers.add_shadowtask POST=consumers.add_shadowtask
admin:consumers_shadow_stop_all: GET=consumers.switch_shadowtask POST=consumers.switch_shadowtask
admin:consumers_shadow_detail: GET=consumers.view_shadowtask
admin:consumers_shadow_start: GET=consumers.switch_shadowtask POST=consumers.switch_shadowtask
admin:consumers_shadow_stop: GET=consumers.switch_shadowtask POST=consumers.switch_shadowtask
admin:messages_list: GET=mq_messages.view_message
admin:messages_storage: GET=mq_messages.view_storage
admin:messages_send: GET=mq_messages.send_message POST=mq_messages.send_message
admin:messages_detail: GET=mq_messages.view_message
admin:messages_body: GET=mq_messages.view_body
admin:messages_delayed: GET=mq_messages.view_message
admin:messages_reschedule_all: GET=mq_messages.change_delayed POST=mq_messages.change_delayed
admin:messages_cancel_all: GET=mq_messages.change_delayed POST=mq_messages.change_delayed
admin:messages_reschedule: GET=mq_messages.change_delayed POST=mq_messages.change_delayed
admin:messages_cancel: GET=mq_messages.change_delayed POST=mq_messages.change_delayed
admin:messages_edit: GET=mq_messages.add_redrive POST=mq_messages.add_redrive
admin:messages_dead_export: GET=mq_messages.view_message
admin:messages_half: GET=mq_messages.view_message
admin:messages_half_commit: GET=mq_messages.decide_half POST=mq_messages.decide_half
admin:messages_half_rollback: GET=mq_messages.decide_half POST=mq_messages.decide_half
admin:messages_check_backs: GET=mq_messages.view_checkback
admin:messages_check_back_add: GET=mq_messages.add_checkback POST=mq_messages.add_checkback
admin:messages_check_back: GET=mq_messages.change_checkback POST=mq_messages.change_checkback
admin:messages_check_back_secret: GET=mq_messages.change_checkback POST=mq_messages.change_checkback
admin:messages_check_back_delete: GET=mq_messages.delete_checkback POST=mq_messages.delete_checkback
admin:messages_dead: GET=mq_messages.view_message POST=mq_messages.add_redrive
admin:messages_position: GET=mq_messages.view_reset POST=mq_messages.add_reset
admin:messages_reset_undo: GET=mq_messages.change_reset POST=mq_messages.change_reset
admin:messages_give_up: GET=consumers.change_consumergroup POST=consumers.change_consumergroup
admin:messages_stopped: GET=mq_messages.decide_stopped POST=mq_messages.decide_stopped
admin:index: self
admin:login: public
admin:logout: self
admin:password_change: self
admin:password_change_done: self
admin:autocomplete: nobody
admin:jsi18n: self
admin:view_on_site: nobody
admin:auth_user_password_change: GET=accounts.administer_user POST=accounts.administer_user
admin:accounts_user_changelist: GET=accounts.view_user
admin:accounts_user_add: GET=accounts.administer_user POST=accounts.administer_user
admin:accounts_user_history: GET=accounts.view_user
admin:accounts_user_delete: GET=accounts.administer_user POST=accounts.administer_user
admin:accounts_user_change: GET=accounts.view_user POST=accounts.administer_user
admin:-: self
admin:auth_group_changelist: GET=auth.view_group
admin:auth_group_add: GET=accounts.administer_user POST=accounts.administer_user
admin:auth_group_history: GET=auth.view_group
admin:auth_group_delete: GET=accounts.administer_user POST=accounts.administer_user
admin:auth_group_change: GET=auth.view_group POST=accounts.administer_user
admin:accounts_application_changelist: GET=accounts.view_application
admin:accounts_application_add: GET=accounts.add_application POST=accounts.add_application
admin:accounts_application_history: GET=accounts.view_application
admin:accounts_application_delete: GET=accounts.delete_application POST=accounts.delete_application
admin:accounts_application_change: GET=accounts.view_application POST=accounts.change_application
admin:app_list: self
"""
