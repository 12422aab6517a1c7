CREATE TABLE "postern"."waiting" (
	"position" bigint NOT NULL,
	"id" bigint NOT NULL,
	"enqueued_at" timestamp with time zone NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"queue_id" integer NOT NULL,
	"lane" smallint NOT NULL,
	"attempts" smallint DEFAULT 0 NOT NULL,
	"log_id" bigint,
	"content_type" text NOT NULL,
	"key" text NOT NULL,
	"headers" jsonb,
	"body" "bytea",
	"due_at" timestamp with time zone NOT NULL,
	CONSTRAINT "waiting_queue_id_key_position_pk" PRIMARY KEY("queue_id","key","position")
);
--> statement-breakpoint
ALTER TABLE "postern"."messages" ADD COLUMN "chain" bigint;--> statement-breakpoint
ALTER TABLE "postern"."scheduled" ADD COLUMN "chain" bigint;--> statement-breakpoint
CREATE INDEX "waiting_position" ON "postern"."waiting" USING btree ("queue_id","position");--> statement-breakpoint
CREATE INDEX "waiting_moved" ON "postern"."waiting" USING btree ("id") WHERE "postern"."waiting"."id" <> "postern"."waiting"."position";--> statement-breakpoint
CREATE INDEX "messages_chain" ON "postern"."messages" USING btree ("queue_id","key","chain") WHERE "postern"."messages"."chain" is not null;--> statement-breakpoint
CREATE INDEX "scheduled_chain" ON "postern"."scheduled" USING btree ("queue_id","key","chain") WHERE "postern"."scheduled"."chain" is not null;