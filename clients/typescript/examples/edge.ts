// An edge function for TURN credentials, meetings and uploads: `export default { fetch }` for
// Cloudflare Workers, `Deno.serve(fetch)` for Deno; others take a handler of the same form.
//
// What is not of `meter` is in `Services`: who asks, and the calls to Cloudflare, Chime and S3.

import type { Database } from "../src/index.js";
import { giveBackTurn, mayUse, recordDelete, recordUpload, startUse, stopUse, takeTurn } from "../src/index.js";

export interface Services {
  // createClient({ url, authToken, intMode: "bigint" }) of "@libsql/client/web"
  books: Database;
  /** The customer who pays for the request; null without a valid session. */
  customer(request: Request): Promise<string | null>;
  createIceServers(): Promise<object>;
  /** The attendee's id and the token with which the browser joins. */
  createAttendee(meeting: string): Promise<{ id: string; token: string }>;
  deleteAttendee(meeting: string, attendee: string): Promise<void>;
  /** An address to which the browser sends the file, and the key of the object. */
  signUpload(bytes: number): Promise<{ key: string; url: string }>;
  /** The size of an object in the bucket; null if there is none. */
  storedBytes(key: string): Promise<number | null>;
  deleteObject(key: string): Promise<void>;
}

/** Requests are `POST /turn`, `POST /meetings/M/attendees`, `DELETE /uploads/KEY` and so on. */
export async function handle(request: Request, services: Services): Promise<Response> {
  const customer = await services.customer(request);
  if (customer === null) return Response.json({ reason: "signed_out" }, { status: 401 });
  const path = new URL(request.url).pathname.slice(1).split("/").map(decodeURIComponent);
  const [kind, id = "", what, attendee = ""] = path;
  switch (`${request.method} ${kind}${what ? `/${what}` : ""}`) {
    case "POST turn":
      return turn(customer, services);
    case "POST meetings/attendees":
      return join(customer, id, services);
    case "PUT meetings/attendees":
      return joined(customer, attendee, services);
    case "DELETE meetings/attendees":
      return leave(customer, id, attendee, services);
    case "POST uploads":
      return upload(customer, Number(await request.text()), services);
    case "PUT uploads":
      return uploaded(customer, id, services);
    case "DELETE uploads":
      return remove(customer, id, services);
    default:
      return Response.json({ reason: "not_found" }, { status: 404 });
  }
}

const refused = (reason: string) => Response.json({ reason }, { status: 402 });

async function turn(customer: string, { books, createIceServers }: Services): Promise<Response> {
  const taken = await takeTurn(books, { customer });
  if (taken === null) return refused("unknown_customer");
  if (!taken.granted) return refused(taken.answer);
  try {
    return Response.json(await createIceServers());
  } catch {
    await giveBackTurn(books, { customer, starts_at: taken.starts_at });
    return Response.json({ reason: "no_relay" }, { status: 503 });
  }
}

/** Refuses, or does nothing if the customer may use the meters. */
async function refusal(books: Database, customer: string, ...meters: string[]): Promise<Response | null> {
  const decisions = await Promise.all(meters.map((meter) => mayUse(books, { customer, meter })));
  for (const decision of decisions) {
    if (decision === null) return refused("unknown_customer");
    if (!decision.allowed) return refused(decision.reason);
  }
  return null;
}

async function join(customer: string, meeting: string, { books, createAttendee }: Services): Promise<Response> {
  const no = await refusal(books, customer, "chime_minutes");
  if (no) return no;
  return Response.json(await createAttendee(meeting));
}

/**
 * The browser says so when the call begins, or Chime's event AttendeeJoined does. AWS bills from
 * then on: an attendee who never joins costs nothing, and would count to its bound here.
 */
async function joined(customer: string, attendee: string, { books }: Services): Promise<Response> {
  await startUse(books, { customer, meter: "chime_minutes", id: attendee });
  return new Response(null, { status: 204 });
}

/** The browser says so when it leaves, and Chime's event for everybody else. */
async function leave(customer: string, meeting: string, attendee: string, services: Services): Promise<Response> {
  await services.deleteAttendee(meeting, attendee);
  await stopUse(services.books, { customer, meter: "chime_minutes", id: attendee });
  return new Response(null, { status: 204 });
}

async function upload(customer: string, bytes: number, { books, signUpload }: Services): Promise<Response> {
  const no = await refusal(books, customer, "storage_gb", "transfer_gb");
  return no ?? Response.json(await signUpload(bytes));
}

/** The browser has sent the file. Its size is the bucket's, not the browser's. */
async function uploaded(customer: string, key: string, { books, storedBytes }: Services): Promise<Response> {
  const bytes = await storedBytes(key);
  if (bytes === null) return Response.json({ reason: "not_found" }, { status: 404 });
  await recordUpload(books, { customer, id: key, bytes });
  return new Response(null, { status: 204 });
}

async function remove(customer: string, key: string, { books, deleteObject }: Services): Promise<Response> {
  await deleteObject(key);
  await recordDelete(books, { customer, id: key });
  return new Response(null, { status: 204 });
}
