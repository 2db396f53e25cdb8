from django.db import models


class Author(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.TextField()

    class Meta:
        managed = False
        db_table = "authors"


class Post(models.Model):
    id = models.IntegerField(primary_key=True)
    author = models.ForeignKey(Author, models.DO_NOTHING)
    title = models.TextField()

    class Meta:
        managed = False
        db_table = "posts"


class Visit(models.Model):
    post = models.ForeignKey(Post, models.DO_NOTHING)

    class Meta:
        managed = False
        db_table = "visits"
