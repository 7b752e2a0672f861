import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Properties;

/** For each line, the base64 of a .properties file: a line of its keys and values, each in base64 of UTF-8. */
public class ReadProperties {
    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Properties read = new Properties();
            read.load(new ByteArrayInputStream(Base64.getDecoder().decode(line)));
            StringBuilder out = new StringBuilder();
            for (String key : read.stringPropertyNames()) {
                out.append(encoded(key)).append(' ').append(encoded(read.getProperty(key))).append(' ');
            }
            System.out.println(out.toString().trim());
        }
    }

    private static String encoded(String text) {
        return "=" + Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8));
    }
}
