set -e
mvn --quiet --batch-mode package
