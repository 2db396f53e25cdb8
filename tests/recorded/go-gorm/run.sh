exec ./blog
