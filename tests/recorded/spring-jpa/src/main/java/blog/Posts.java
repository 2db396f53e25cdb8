package blog;

import java.util.List;
import org.springframework.data.domain.Page;
import org.springframework.data.domain.Pageable;
import org.springframework.data.jpa.repository.EntityGraph;
import org.springframework.data.jpa.repository.JpaRepository;
import org.springframework.data.jpa.repository.Query;

interface Posts extends JpaRepository<Post, Integer> {
    List<Post> findTop20ByOrderByIdDesc();

    @Query("select p from Post p join fetch p.author order by p.id desc limit 20")
    List<Post> latestWithAuthors();

    @EntityGraph(attributePaths = "author")
    Page<Post> findAllByOrderById(Pageable page);

    List<Post> findTop8ByIdGreaterThanOrderById(int last);
}
