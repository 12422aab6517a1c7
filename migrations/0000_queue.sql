CREATE SCHEMA IF NOT EXISTS "postern";
--> statement-breakpoint
CREATE SEQUENCE "postern"."message_position" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1;--> statement-breakpoint
CREATE TABLE "postern"."api_keys" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"hash" "bytea" NOT NULL,
	"scopes" jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "postern"."dead" (
	"died_at" timestamp with time zone NOT NULL,
	"reason" text NOT NULL,
	"last_error" text,
	"origin" text NOT NULL,
	"position" bigint NOT NULL,
	"id" bigint NOT NULL,
	"enqueued_at" timestamp with time zone NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"queue_id" integer NOT NULL,
	"lane" smallint NOT NULL,
	"attempts" smallint DEFAULT 0 NOT NULL,
	"log_id" bigint,
	"content_type" text NOT NULL,
	"key" text,
	"headers" jsonb,
	"body" "bytea",
	CONSTRAINT "dead_queue_id_position_pk" PRIMARY KEY("queue_id","position")
);
--> statement-breakpoint
CREATE TABLE "postern"."dedup" (
	"queue_id" integer NOT NULL,
	"dedup_id" text NOT NULL,
	"message_id" bigint NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	CONSTRAINT "dedup_queue_id_dedup_id_pk" PRIMARY KEY("queue_id","dedup_id")
);
--> statement-breakpoint
CREATE TABLE "postern"."leases" (
	"expires_at" timestamp with time zone NOT NULL,
	"token" bigint NOT NULL,
	"queue_id" integer NOT NULL,
	"lane" smallint NOT NULL,
	"positions" bigint[] NOT NULL,
	CONSTRAINT "leases_expires_at_token_queue_id_lane_pk" PRIMARY KEY("expires_at","token","queue_id","lane")
);
--> statement-breakpoint
CREATE TABLE "postern"."messages" (
	"lease_token" bigint DEFAULT 0 NOT NULL,
	"leased_until" timestamp with time zone DEFAULT '1970-01-01T00:00:00.000Z' NOT NULL,
	"position" bigint NOT NULL,
	"id" bigint NOT NULL,
	"enqueued_at" timestamp with time zone NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"queue_id" integer NOT NULL,
	"lane" smallint NOT NULL,
	"attempts" smallint DEFAULT 0 NOT NULL,
	"log_id" bigint,
	"content_type" text NOT NULL,
	"key" text,
	"headers" jsonb,
	"body" "bytea",
	CONSTRAINT "messages_queue_id_lane_position_pk" PRIMARY KEY("queue_id","lane","position")
);
--> statement-breakpoint
CREATE TABLE "postern"."queues" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "postern"."queues_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"name" text NOT NULL,
	"order" text NOT NULL,
	"lease_ms" integer NOT NULL,
	"max_attempts" smallint NOT NULL,
	"delay_ms" bigint NOT NULL,
	"ttl_ms" bigint NOT NULL,
	"backoff_base_ms" bigint,
	"backoff_max_ms" bigint,
	"backoff_factor" double precision,
	"backoff_jitter" double precision,
	"dead_letter_queue_id" integer,
	"dead_letter_expired" boolean NOT NULL,
	"max_messages" bigint,
	"max_bytes" bigint,
	"overflow" text NOT NULL,
	"dedup_window_ms" bigint NOT NULL,
	"max_leased" integer,
	"paused" boolean NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "postern"."rates" (
	"at" timestamp with time zone NOT NULL,
	"queue_id" integer NOT NULL,
	"gateway" text NOT NULL,
	"sent" integer NOT NULL,
	"settled" integer NOT NULL,
	CONSTRAINT "rates_queue_id_at_gateway_pk" PRIMARY KEY("queue_id","at","gateway")
);
--> statement-breakpoint
CREATE TABLE "postern"."scheduled" (
	"due_at" timestamp with time zone NOT NULL,
	"position" bigint NOT NULL,
	"id" bigint NOT NULL,
	"enqueued_at" timestamp with time zone NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"queue_id" integer NOT NULL,
	"lane" smallint NOT NULL,
	"attempts" smallint DEFAULT 0 NOT NULL,
	"log_id" bigint,
	"content_type" text NOT NULL,
	"key" text,
	"headers" jsonb,
	"body" "bytea",
	CONSTRAINT "scheduled_due_at_position_pk" PRIMARY KEY("due_at","position")
);
--> statement-breakpoint
CREATE TABLE "postern"."secrets" (
	"name" text PRIMARY KEY NOT NULL,
	"value" "bytea" NOT NULL
);
--> statement-breakpoint
CREATE INDEX "dead_id" ON "postern"."dead" USING btree ("id");--> statement-breakpoint
CREATE INDEX "dedup_expires" ON "postern"."dedup" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "leases_queue" ON "postern"."leases" USING btree ("queue_id","expires_at");--> statement-breakpoint
CREATE INDEX "messages_moved" ON "postern"."messages" USING btree ("id") WHERE "postern"."messages"."id" <> abs("postern"."messages"."position");--> statement-breakpoint
CREATE UNIQUE INDEX "queues_name" ON "postern"."queues" USING btree ("name");--> statement-breakpoint
CREATE INDEX "queues_dead_letter_queue" ON "postern"."queues" USING btree ("dead_letter_queue_id") WHERE "postern"."queues"."dead_letter_queue_id" is not null;--> statement-breakpoint
CREATE INDEX "rates_at" ON "postern"."rates" USING btree ("at");--> statement-breakpoint
CREATE INDEX "scheduled_queue" ON "postern"."scheduled" USING btree ("queue_id","due_at","position");--> statement-breakpoint
CREATE INDEX "scheduled_id" ON "postern"."scheduled" USING btree ("id");