CREATE TABLE "postern"."receive_requests" (
	"queue_id" integer NOT NULL,
	"hash" "bytea" NOT NULL,
	"token" bigint NOT NULL,
	"lanes" smallint[] NOT NULL,
	"positions" bigint[] NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	CONSTRAINT "receive_requests_queue_id_hash_pk" PRIMARY KEY("queue_id","hash")
);
--> statement-breakpoint
ALTER TABLE "postern"."api_keys" ADD COLUMN "rate_count" integer;--> statement-breakpoint
ALTER TABLE "postern"."api_keys" ADD COLUMN "rate_per_ms" bigint;--> statement-breakpoint
CREATE INDEX "receive_requests_expires" ON "postern"."receive_requests" USING btree ("expires_at");