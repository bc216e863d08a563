/** The measurements with what they do shown: one line that changes on a terminal, else a line for each step. */
import type { SetupSystem } from './setup-system.ts'
import { takeMeasurements, type Findings } from './measure/take-measurements.ts'

const CLEAR_LINE = '\r\u001b[K'

export async function measure(
  { clock, io, err }: Pick<SetupSystem, 'clock' | 'io' | 'err'>,
  options: {
    readonly directory: string
    readonly machineRoot: string
    readonly signal: AbortSignal
  },
): Promise<Findings> {
  const [before, after] = io.isTty ? [CLEAR_LINE, ''] : ['', '\n']
  try {
    return await takeMeasurements(
      { clock },
      {
        ...options,
        home: io.home,
        onStep: (step) => err(`${before}measuring this machine: ${step} …${after}`),
      },
    )
  } finally {
    if (io.isTty) err(CLEAR_LINE)
  }
}
