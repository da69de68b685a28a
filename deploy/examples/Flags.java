// Prints every flag: java -cp 'kafka/libs/*' Flags.java kafka:9092, with the libs of a Kafka distribution and Java 17.
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

class Flags {
    public static void main(String[] args) throws Exception {
        var bytes = new ByteArrayDeserializer();
        var seen = new HashSet<String>(); // flags come at least once; yours would expire, and outlive a restart
        Map<String, Object> options = Map.of("bootstrap.servers", args[0], "group.id", "my-java-flags");
        var consumer = new KafkaConsumer<>(options, bytes, bytes);
        consumer.subscribe(List.of("safety.flags"));
        while (true) for (var record : consumer.poll(Duration.ofSeconds(1))) {
            var flag = new ObjectMapper().readTree(record.value());
            if (seen.add(flag.get("id").asText())) System.out.println(flag.get("score") + " " + flag.get("statement"));
        }
    }
}
