ALTER TABLE "postern"."rates" ADD COLUMN "receives" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "postern"."rates" ADD COLUMN "received" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "postern"."rates" ADD COLUMN "busy_ms" bigint DEFAULT 0 NOT NULL;