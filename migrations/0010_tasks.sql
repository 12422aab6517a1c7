CREATE TABLE "postern"."tasks" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "postern"."tasks_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"name" text NOT NULL,
	"kind" text NOT NULL,
	"queue_id" integer NOT NULL,
	"queue" text NOT NULL,
	"target_id" integer,
	"target" text,
	"origin_ids" integer[],
	"filter" jsonb NOT NULL,
	"most" bigint,
	"rate_count" integer,
	"rate_per_ms" bigint,
	"dry_run" boolean NOT NULL,
	"state" text DEFAULT 'running' NOT NULL,
	"at" text DEFAULT 'dead' NOT NULL,
	"at_first" double precision NOT NULL,
	"at_second" bigint NOT NULL,
	"up_to" bigint NOT NULL,
	"scanned" bigint DEFAULT 0 NOT NULL,
	"matched" bigint DEFAULT 0 NOT NULL,
	"moved" bigint DEFAULT 0 NOT NULL,
	"skipped" bigint DEFAULT 0 NOT NULL,
	"error" text,
	"owner" text,
	"leased_until" timestamp with time zone DEFAULT '1970-01-01T00:00:00.000Z' NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone
);
--> statement-breakpoint
CREATE UNIQUE INDEX "tasks_name" ON "postern"."tasks" USING btree ("name");--> statement-breakpoint
CREATE INDEX "tasks_running" ON "postern"."tasks" USING btree ("id") WHERE "postern"."tasks"."state" = 'running';--> statement-breakpoint
CREATE INDEX "tasks_finished" ON "postern"."tasks" USING btree ("finished_at") WHERE "postern"."tasks"."finished_at" is not null;