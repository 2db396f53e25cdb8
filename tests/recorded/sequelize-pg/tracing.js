// The SDK by hand: Sequelize's instrumentation is not among the automatic ones.

const { NodeSDK } = require("@opentelemetry/sdk-node");
const { ExpressInstrumentation } = require("@opentelemetry/instrumentation-express");
const { HttpInstrumentation } = require("@opentelemetry/instrumentation-http");
const { PgInstrumentation } = require("@opentelemetry/instrumentation-pg");
const { UndiciInstrumentation } = require("@opentelemetry/instrumentation-undici");
const { SequelizeInstrumentation } = require("@opentelemetry/instrumentation-sequelize");

const sdk = new NodeSDK({
  instrumentations: [
    new HttpInstrumentation(),
    new UndiciInstrumentation(),
    new ExpressInstrumentation(),
    new PgInstrumentation(),
    new SequelizeInstrumentation(),
  ],
});
sdk.start();
process.once("SIGTERM", () => sdk.shutdown().finally(() => process.exit()));
