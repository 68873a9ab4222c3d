-- Everything that stands in ZooKeeper, with its content but for the generation.
CREATE TEMP TABLE things ON COMMIT DROP AS
SELECT '/zms/topic/' || t.name AS path, '/zms/topic' AS root, 'properties' AS format, t.state = 'retired' AS deleted, t.id AS seed,
       'clusterName=' || c.name || E'\ntype=topic\ngatedIps=\ngatedCluster=\nstatisticsLogger=disk\n' AS text, ARRAY['/zms/cluster/' || c.name] AS requires
  FROM topics_topic t JOIN clusters_cluster c ON c.id = t.cluster_id WHERE t.state IN ('active', 'retired')
UNION ALL
SELECT '/zms/consumergroup/' || g.name, '/zms/consumergroup', 'properties', g.state = 'retired', g.id + 50000,
       E'type=consumergroup\nbroadcast=false\nconsumeFrom=' || g.consume_from || E'\nbindingTopic=' || coalesce(min(t.name), '') || E'\n',
       array_remove(array_agg('/zms/topic/' || t.name), NULL)
  FROM consumers_consumergroup g LEFT JOIN consumers_subscription s ON s.group_id = g.id LEFT JOIN topics_topic t ON t.id = s.topic_id
 WHERE g.state IN ('active', 'retired') GROUP BY g.id
UNION ALL
SELECT '/zms/cluster/' || c.name, '/zms/cluster', 'properties', false, c.id + 100000, 'bootAddr=' || c.address || E'\nbrokerType=' || c.kind || E'\n', '{}'
  FROM clusters_cluster c WHERE c.kind <> 'builtin'
UNION ALL
SELECT '/zpt/' || a.name || '/' || s.task || '/' || g.name, '/zpt', 'json', false, s.id + 200000, '{"enable":"0","generation":1}',
       ARRAY['/zms/consumergroup/' || g.name]
  FROM consumers_shadowtask s JOIN accounts_application a ON a.id = s.application_id JOIN consumers_consumergroup g ON g.id = s.group_id;
