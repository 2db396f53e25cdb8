package blog;

import jakarta.persistence.EntityManager;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.data.domain.PageRequest;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.transaction.annotation.Transactional;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

/** A Spring Boot app with Spring Data JPA. */
@SpringBootApplication
@RestController
public class Blog {
    private static final String STUB_URL = System.getenv("STUB_URL");

    private final HttpClient http = HttpClient.newHttpClient();
    private final ExecutorService shipping = Executors.newSingleThreadExecutor();
    private final Posts posts;
    private final JdbcTemplate jdbc;
    private final EntityManager entities;

    Blog(Posts posts, JdbcTemplate jdbc, EntityManager entities) {
        this.posts = posts;
        this.jdbc = jdbc;
        this.entities = entities;
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Blog.class, arguments);
    }

    @GetMapping("/about")
    public Object about() {
        return posts.count();
    }

    private static List<String> names(Stream<Post> posts) {
        return posts.map(it -> it.title + " by " + it.author.getName()).toList();
    }

    @GetMapping("/posts/lazy")
    @Transactional(readOnly = true)
    public Object lazy() {
        return names(posts.findTop20ByOrderByIdDesc().stream());
    }

    @GetMapping("/posts/eager")
    @Transactional(readOnly = true)
    public Object eager() {
        return names(posts.latestWithAuthors().stream());
    }

    @GetMapping("/posts/page")
    @Transactional(readOnly = true)
    public Object page(@RequestParam int page) {
        return names(posts.findAllByOrderById(PageRequest.of(page - 1, 10)).stream());
    }

    @GetMapping("/posts/export")
    @Transactional(readOnly = true)
    public Object export() {
        List<String> titles = new ArrayList<>();
        int last = 0;
        while (true) {
            List<Post> page = posts.findTop8ByIdGreaterThanOrderById(last);
            if (page.isEmpty()) {
                return titles;
            }
            page.forEach(it -> titles.add(it.title));
            last = page.get(page.size() - 1).id;
        }
    }

    @PostMapping("/visits/rows")
    @Transactional
    public void rows() {
        for (int post = 1; post <= 20; post++) {
            jdbc.update("insert into visits (post_id) values (?)", post);
        }
    }

    @PostMapping("/visits/bulk")
    @Transactional
    public void bulk() {
        List<Object[]> posts = IntStream.rangeClosed(1, 20).mapToObj(it -> new Object[] {it}).toList();
        jdbc.batchUpdate("insert into visits (post_id) values (?)", posts);
    }

    @GetMapping("/report")
    @Transactional(readOnly = true)
    public Object report() {
        return entities
                .createNativeQuery(
                        "select a.name, count(*) from authors a join posts p on p.author_id = a.id"
                                + " cross join generate_series(1, cast(:size as int)) g"
                                + " where (p.id + g) % 7 = 0 group by a.name order by 2 desc")
                .setParameter("size", 150000)
                .getResultList();
    }

    private void push() {
        URI uri = URI.create(STUB_URL + "/loki/api/v1/push");
        send(HttpRequest.newBuilder(uri).POST(HttpRequest.BodyPublishers.ofString("{\"streams\": []}")));
    }

    private String send(HttpRequest.Builder request) {
        try {
            return http.send(request.build(), BodyHandlers.ofString()).body();
        } catch (IOException | InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    @PostMapping("/orders/log-sync")
    public void logSync() {
        posts.count();
        push();
    }

    @PostMapping("/orders/log-async")
    public void logAsync() {
        shipping.execute(this::push);
        posts.count();
    }

    @GetMapping("/prices/each")
    public Object each() {
        List<String> prices = new ArrayList<>();
        for (int id = 1; id <= 12; id++) {
            prices.add(send(HttpRequest.newBuilder(URI.create(STUB_URL + "/prices/" + id))));
        }
        return prices;
    }

    @GetMapping("/prices/batch")
    public Object batch() {
        return send(HttpRequest.newBuilder(URI.create(STUB_URL + "/prices?ids=1,2,3,4,5,6,7,8,9,10,11,12")));
    }
}
