exec node --require ./tracing.js blog.js
