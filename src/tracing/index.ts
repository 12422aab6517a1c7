/** Spans on their way to a collector, by OTLP over HTTP. Loaded only where one is named; nothing waits for it, and what it misses is lost. */
import { context, type Link, type SpanContext, SpanKind, SpanStatusCode, TraceFlags, trace } from '@opentelemetry/api'
import { type ExportResult, ExportResultCode, TraceState } from '@opentelemetry/core'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources'
import { BasicTracerProvider, BatchSpanProcessor, type SpanExporter } from '@opentelemetry/sdk-trace-base'
import { monotonicMs } from '../base/index.ts'
import { type Headers, parseTraceparent, type Span, type SpanOptions, type Tracing } from '../model/index.ts'

export type TracesOptions = {
  /** The base of the collector's URL. */
  endpoint: string
  version: string
  /** A batch was not taken. */
  exportFailed(): void
  log(event: string, fields?: Record<string, unknown>): void
}

export type Traces = {
  tracing: Tracing
  /** Sends what is still here. Never throws, and takes some seconds at the most. */
  stop(): Promise<void>
}

const kinds = {
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
  consumer: SpanKind.CONSUMER,
  internal: SpanKind.INTERNAL,
} as const satisfies Record<SpanOptions['kind'], SpanKind>

const exportTimeoutMs = 3_000
const complainEveryMs = 60_000

/** Sampler, headers of the exporter and the like come from the OTEL_ variables, as everywhere else. */
export function startTraces({ endpoint, version, exportFailed, log }: TracesOptions): Traces {
  const url = `${endpoint.replace(/\/+$/, '')}/v1/traces`
  const exporter = heard(new OTLPTraceExporter({ url, timeoutMillis: exportTimeoutMs }), failures(exportFailed, log))
  const ownNames = resourceFromAttributes({ 'service.name': 'postern', 'service.version': version })
  const provider = new BasicTracerProvider({
    resource: defaultResource()
      .merge(ownNames)
      .merge(detectResources({ detectors: [envDetector] })),
    spanProcessors: [new BatchSpanProcessor(exporter, { exportTimeoutMillis: exportTimeoutMs })],
  })
  const tracer = provider.getTracer('postern', version)

  function begin(name: string, { kind, parent, links = [], facts = {} }: SpanOptions): Span {
    const found = parent && contextFrom(parent)
    const around = found ? trace.setSpanContext(context.active(), found) : context.active()
    const others = links.flatMap((headers): Link[] => {
      const linked = contextFrom(headers)
      return linked ? [{ context: linked }] : []
    })
    const span = tracer.startSpan(name, { kind: kinds[kind], attributes: facts, links: others, root: !found }, around)
    return {
      context: headersFrom(span.spanContext()),
      set: (more) => void span.setAttributes(more),
      end(error) {
        if (error !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: error })
        span.end()
      },
    }
  }

  return {
    tracing: { begin },
    stop: () => provider.shutdown().catch((error: unknown) => log('stopping traces failed', { error })),
  }
}

function contextFrom({ traceparent, tracestate }: Headers): SpanContext | null {
  const found = parseTraceparent(traceparent)
  if (!found) return null
  const { traceId, spanId, sampled } = found
  return {
    traceId,
    spanId,
    isRemote: true,
    traceFlags: sampled ? TraceFlags.SAMPLED : TraceFlags.NONE,
    ...(tracestate ? { traceState: new TraceState(tracestate) } : {}),
  }
}

function headersFrom({ traceId, spanId, traceFlags, traceState }: SpanContext): Headers {
  const traceparent = `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`
  const tracestate = traceState?.serialize()
  return tracestate ? { traceparent, tracestate } : { traceparent }
}

/** The SDK says nothing about what it loses. */
function heard(exporter: SpanExporter, failed: (error: Error | undefined) => void): SpanExporter {
  return {
    export: (spans, done) =>
      exporter.export(spans, (result: ExportResult) => {
        if (result.code !== ExportResultCode.SUCCESS) failed(result.error)
        done(result)
      }),
    shutdown: () => exporter.shutdown(),
    forceFlush: async () => await exporter.forceFlush?.(),
  }
}

/** A collector that is away would fill the log. */
function failures(exportFailed: () => void, log: TracesOptions['log']): (error: Error | undefined) => void {
  let saidMs = Number.NEGATIVE_INFINITY
  return (error) => {
    exportFailed()
    if (monotonicMs() - saidMs < complainEveryMs) return
    saidMs = monotonicMs()
    log('traces were not taken', { error: error ?? 'no reason' })
  }
}
