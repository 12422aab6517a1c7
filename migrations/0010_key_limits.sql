ALTER TABLE "postern"."api_keys" ADD COLUMN "rate_count" integer;--> statement-breakpoint
ALTER TABLE "postern"."api_keys" ADD COLUMN "rate_per_ms" bigint;