host=${DATABASE_URL#*@}
exec java -javaagent:target/dependency/opentelemetry-javaagent-2.33.1.jar \
    -cp "target/blog-1.jar:target/dependency/*" blog.Blog \
    --server.port="$PORT" --server.address=127.0.0.1 \
    --spring.datasource.url="jdbc:postgresql://$host" --spring.datasource.username=shop
