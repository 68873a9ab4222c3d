import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.ZooKeeper;

/**
 * An independent reader of what mqadmin publishes: java.util.Properties and ZooKeeper's own Java client, none of our code.
 *
 * Commands on stdin, one a line; each is answered by one line. What a client would do at a change comes as lines that begin with "event".
 *   load BASE64                             the pairs that Properties.load(InputStream) finds, in their order
 *   store HEX=HEX ...                       the bytes that Properties.store(OutputStream) writes of them
 *   get HOSTS PATH                          a node's bytes, read by ZooKeeper's Java client
 *   follow HOSTS topic|consumergroup NAME IP   behave like a ZMS client: exists, get, get the cluster, watch, register
 *   leave NAME                              end that client's session
 * Text travels as hex of UTF-16, so that every char of a Java String comes through, half of a surrogate pair too.
 */
public class Reader {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.US_ASCII);
    private static final Map<String, Follower> FOLLOWERS = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        say("ready");
        for (String line; (line = in.readLine()) != null; ) {
            String[] words = line.split(" ");
            try {
                say(answer(words));
            } catch (Exception error) {
                say("error " + error);
            }
        }
        System.exit(0);
    }

    static String answer(String[] words) throws Exception {
        switch (words[0]) {
            case "load":
                return "pairs" + load(words.length > 1 ? Base64.getDecoder().decode(words[1]) : new byte[0]).text();
            case "store":
                return "bytes " + store(words);
            case "get":
                return "bytes " + get(words[1], words[2]);
            case "follow":
                FOLLOWERS.put(words[3], new Follower(words[1], words[2], words[3], words[4]));
                return "following " + words[3];
            case "leave":
                FOLLOWERS.remove(words[1]).close();
                return "left " + words[1];
            default:
                return "error unknown command";
        }
    }

    static synchronized void say(String line) {
        OUT.println(line);
    }

    /** Properties that remember the order of their keys in the text. */
    static class Ordered extends Properties {
        final List<String[]> pairs = new ArrayList<>();

        @Override
        public synchronized Object put(Object key, Object value) {
            pairs.add(new String[] {(String) key, (String) value});
            return super.put(key, value);
        }

        String text() {
            StringBuilder text = new StringBuilder();
            for (String[] pair : pairs) {
                text.append(' ').append(hex(pair[0])).append('=').append(hex(pair[1]));
            }
            return text.toString();
        }
    }

    static Ordered load(byte[] data) throws Exception {
        Ordered found = new Ordered();
        found.load(new ByteArrayInputStream(data));
        return found;
    }

    static String store(String[] words) throws Exception {
        Properties pairs = new Properties();
        for (int i = 1; i < words.length; i++) {
            String[] pair = words[i].split("=", -1);
            pairs.put(text(pair[0]), text(pair[1]));
        }
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        pairs.store(bytes, null);
        return Base64.getEncoder().encodeToString(bytes.toByteArray());
    }

    static String get(String hosts, String path) throws Exception {
        ZooKeeper client = new ZooKeeper(hosts, 10_000, event -> { });
        try {
            return Base64.getEncoder().encodeToString(client.getData(path, false, null));
        } finally {
            client.close();
        }
    }

    static String hex(String text) {
        StringBuilder hex = new StringBuilder();
        for (char unit : text.toCharArray()) {
            hex.append(String.format("%04x", (int) unit));
        }
        return hex.toString();
    }

    static String text(String hex) {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < hex.length(); i += 4) {
            text.append((char) Integer.parseInt(hex.substring(i, i + 4), 16));
        }
        return text.toString();
    }

    /** One producer or consumer on one topic or group, as a ZMS client goes about it. */
    static class Follower implements Watcher {
        private final ZooKeeper client;
        private final String path;
        private final String name;
        private final String ip;
        private final ExecutorService one = Executors.newSingleThreadExecutor();
        private Properties metadata;
        private Properties cluster;
        private String clusterName;

        Follower(String hosts, String kind, String name, String ip) throws Exception {
            this.path = "/zms/" + kind + "/" + name;
            this.name = name;
            this.ip = ip;
            client = new ZooKeeper(hosts, 10_000, event -> { });
            one.submit(() -> read(true)).get();
            if (metadata == null) {
                throw new IllegalStateException(path + " is not published");
            }
            String role = kind.equals("topic") ? "DEFAULT_PRODUCER" : "DEFAULT_CONSUMER";
            String child = ip + "||" + role + "||zms-java-1.0||2026-11-21T08:00:00.000||" + Integer.toHexString(hashCode());
            client.create(path + "/" + child, new byte[0], ZooDefs.Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        }

        @Override
        public void process(WatchedEvent event) {
            if (event.getType() != Event.EventType.None) {
                one.submit(() -> read(false));
            }
        }

        private void read(boolean first) {
            try {
                if (client.exists(path, this) == null) {
                    if (!first) {
                        act("gone");
                    }
                    return;
                }
                Properties now = load(client.getData(path, this, null));
                // Which cluster holds for this address: by substring, as ZMS compares.
                boolean gated = now.getProperty("gatedIps", "").contains(ip) && !now.getProperty("gatedIps", "").isEmpty();
                String on = now.getProperty(gated ? "gatedCluster" : "clusterName");
                Properties where;
                try {
                    where = load(client.getData("/zms/cluster/" + on, false, null));
                } catch (KeeperException.NoNodeException error) {
                    act("crash: no cluster " + on);
                    return;
                }
                decide(first, now, on, where);
            } catch (Exception error) {
                act("crash: " + error);
            }
        }

        private void decide(boolean first, Properties now, String on, Properties where) {
            String type = where.getProperty("brokerType");
            if (!type.equals("kafka") && !type.equals("rocketmq")) {
                act("refuse brokerType " + type);
                return;
            }
            Properties before = metadata;
            Properties whereBefore = cluster;
            String onBefore = clusterName;
            metadata = now;
            cluster = where;
            clusterName = on;
            if (first) {
                act("build " + on + " " + where.getProperty("bootAddr"));
            } else if (!type.equals(whereBefore.getProperty("brokerType"))) {
                act("ignore brokerType " + type);
            } else if (!on.equals(onBefore) || differ("bootAddr", where, whereBefore) || differ("serverIps", where, whereBefore)) {
                act("rebuild " + on + " " + where.getProperty("bootAddr"));
            } else if (differ("suspend", now, before)) {
                act(now.getProperty("suspend").equals("true") ? "suspend" : "resume");
            } else if (differ("consumeFrom", now, before) || differ("broadcast", now, before) || differ("bindingTopic", now, before)) {
                act("rebuild " + on + " " + where.getProperty("bootAddr"));
            } else {
                act("nothing");
            }
        }

        private static boolean differ(String key, Properties one, Properties other) {
            return !Objects.equals(one.getProperty(key), other.getProperty(key));
        }

        private void act(String what) {
            say("event " + name + " " + what);
        }

        void close() throws InterruptedException {
            client.close();
            one.shutdown();
        }
    }
}
