/** The root of all logs: JSON lines on stderr, or lines for a person where that is a terminal. */
import { pino, type DestinationStream, type Logger } from 'pino'
import type { Config } from '../config/config.ts'

const STDERR = 2

/** Lines are written at once, so that none is lost when the process ends. */
export async function createLogger(
  { level, format }: Config['log'],
  /** Stderr where absent. */
  destination?: DestinationStream,
): Promise<Logger> {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  }
  if (format === 'json')
    return pino(options, destination ?? pino.destination({ dest: STDERR, sync: true }))
  // Loaded only where a person looks: it takes as long as all the rest of the logger.
  const { default: pretty } = await import('pino-pretty')
  const stream = pretty({
    colorize: destination === undefined && process.stderr.isTTY && process.stderr.hasColors(),
    translateTime: 'SYS:HH:MM:ss.l',
    singleLine: true,
    sync: true,
    destination: destination ?? STDERR,
  })
  return pino(options, stream)
}
