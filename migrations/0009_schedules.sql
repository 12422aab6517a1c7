CREATE TABLE "postern"."schedules" (
	"name" text PRIMARY KEY NOT NULL,
	"cron" text NOT NULL,
	"timezone" text NOT NULL,
	"queue" text,
	"topic" text,
	"routing_key" text,
	"content_type" text NOT NULL,
	"key" text,
	"headers" jsonb,
	"body" "bytea" NOT NULL,
	"priority" smallint NOT NULL,
	"delay_ms" bigint,
	"ttl_ms" bigint,
	"misfire" text NOT NULL,
	"paused" boolean NOT NULL,
	"next_fire_at" timestamp with time zone,
	"last_fire_at" timestamp with time zone,
	"last_message_id" text,
	"last_error" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE INDEX "schedules_next_fire" ON "postern"."schedules" USING btree ("next_fire_at") WHERE "postern"."schedules"."next_fire_at" is not null;