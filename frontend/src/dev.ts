/** Entry of `dev.html`: `?role=viewer` and `?link=lost` show other cases. */

import { FakeApi } from "./fake";
import { mount } from "./mount";
import type { Link } from "./seam";

const query = new URLSearchParams(location.search);
const link = (query.get("link") ?? "open") as Link["state"];
mount(document.getElementById("page") as HTMLElement, new FakeApi(query.get("role") ?? "admin", link));
