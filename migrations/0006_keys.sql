CREATE TABLE "postern"."blocked_keys" (
	"queue_id" integer NOT NULL,
	"key" text NOT NULL,
	"chain" bigint NOT NULL,
	"message_id" bigint NOT NULL,
	"reason" text NOT NULL,
	"last_error" text,
	"blocked_at" timestamp with time zone NOT NULL,
	CONSTRAINT "blocked_keys_queue_id_key_pk" PRIMARY KEY("queue_id","key")
);
--> statement-breakpoint
ALTER TABLE "postern"."queues" ADD COLUMN "on_dead" text DEFAULT 'continue' NOT NULL;--> statement-breakpoint
ALTER TABLE "postern"."queues" ADD COLUMN "fair" boolean DEFAULT false NOT NULL;