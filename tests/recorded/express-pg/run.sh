exec node --require @opentelemetry/auto-instrumentations-node/register blog.js
