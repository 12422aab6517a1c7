CREATE TABLE "postern"."attempts" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "postern"."attempts_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"subscription_id" integer NOT NULL,
	"message_id" bigint NOT NULL,
	"attempt" smallint NOT NULL,
	"at" timestamp with time zone NOT NULL,
	"succeeded" boolean NOT NULL,
	"status" smallint,
	"duration_ms" integer NOT NULL,
	"request_headers" jsonb NOT NULL,
	"response_headers" jsonb NOT NULL,
	"response_body" "bytea" NOT NULL,
	"error" text,
	"next_attempt_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "postern"."bindings" (
	"topic_id" integer NOT NULL,
	"name" text NOT NULL,
	"queue_id" integer NOT NULL,
	"pattern" text NOT NULL,
	"filter" jsonb,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "bindings_topic_id_name_pk" PRIMARY KEY("topic_id","name")
);
--> statement-breakpoint
CREATE TABLE "postern"."gateways" (
	"id" text PRIMARY KEY NOT NULL,
	"alive_until" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "postern"."subscription_secrets" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "postern"."subscription_secrets_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"subscription_id" integer NOT NULL,
	"secret" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "postern"."subscriptions" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "postern"."subscriptions_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"name" text NOT NULL,
	"title" text,
	"queue_id" integer NOT NULL,
	"topic_id" integer,
	"pattern" text,
	"filter" jsonb,
	"url" text NOT NULL,
	"format" text NOT NULL,
	"headers" jsonb NOT NULL,
	"timeout_ms" integer NOT NULL,
	"concurrency" integer NOT NULL,
	"rate_count" integer,
	"rate_per_ms" bigint,
	"retry" jsonb NOT NULL,
	"max_attempts" smallint,
	"disabled" text,
	"version" bigint DEFAULT 1 NOT NULL,
	"owner" text,
	"circuit" text DEFAULT 'closed' NOT NULL,
	"failures" integer DEFAULT 0 NOT NULL,
	"failing_since" timestamp with time zone,
	"held_until" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "postern"."topic_log" (
	"id" bigint PRIMARY KEY NOT NULL,
	"topic_id" integer NOT NULL,
	"published_at" timestamp with time zone NOT NULL,
	"keep_until" timestamp with time zone NOT NULL,
	"lane" smallint NOT NULL,
	"routing_key" text NOT NULL,
	"content_type" text NOT NULL,
	"key" text,
	"headers" jsonb,
	"body" "bytea" NOT NULL
);
--> statement-breakpoint
CREATE TABLE "postern"."topics" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "postern"."topics_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"name" text NOT NULL,
	"version" bigint DEFAULT 1 NOT NULL,
	"retention_ms" bigint NOT NULL,
	"dedup_window_ms" bigint NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "postern"."queues" ADD COLUMN "backlog" boolean DEFAULT false NOT NULL;--> statement-breakpoint
CREATE INDEX "attempts_subscription" ON "postern"."attempts" USING btree ("subscription_id","id");--> statement-breakpoint
CREATE INDEX "bindings_queue" ON "postern"."bindings" USING btree ("queue_id");--> statement-breakpoint
CREATE INDEX "subscription_secrets_subscription" ON "postern"."subscription_secrets" USING btree ("subscription_id","id");--> statement-breakpoint
CREATE UNIQUE INDEX "subscriptions_name" ON "postern"."subscriptions" USING btree ("name");--> statement-breakpoint
CREATE INDEX "subscriptions_queue" ON "postern"."subscriptions" USING btree ("queue_id");--> statement-breakpoint
CREATE INDEX "subscriptions_topic" ON "postern"."subscriptions" USING btree ("topic_id") WHERE "postern"."subscriptions"."topic_id" is not null;--> statement-breakpoint
CREATE INDEX "subscriptions_owner" ON "postern"."subscriptions" USING btree ("owner");--> statement-breakpoint
CREATE INDEX "topic_log_published" ON "postern"."topic_log" USING btree ("topic_id","published_at","id");--> statement-breakpoint
CREATE INDEX "topic_log_keep_until" ON "postern"."topic_log" USING btree ("keep_until","id");--> statement-breakpoint
CREATE UNIQUE INDEX "topics_name" ON "postern"."topics" USING btree ("name");--> statement-breakpoint
CREATE INDEX "messages_log" ON "postern"."messages" USING btree ("log_id") WHERE "postern"."messages"."log_id" is not null;--> statement-breakpoint
CREATE INDEX "scheduled_log" ON "postern"."scheduled" USING btree ("log_id") WHERE "postern"."scheduled"."log_id" is not null;